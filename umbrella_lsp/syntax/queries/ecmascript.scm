; What JavaScript and TypeScript have in common.

(import_statement) @import

(class_declaration name: (_) @name body: (_) @body) @class
(function_declaration name: (_) @name body: (_) @body) @function
; A function whose body is still open is taken for an expression.
(function_expression name: (_) @name body: (_) @body) @function
(generator_function_declaration name: (_) @name body: (_) @body) @function
(method_definition name: (_) @name body: (_) @body) @function
(lexical_declaration (variable_declarator name: (identifier) @name value: [(arrow_function body: (_) @body) (function_expression body: (_) @body)])) @function
(lexical_declaration (variable_declarator name: (identifier) @name)) @variable
(variable_declaration (variable_declarator name: (identifier) @name)) @variable

(ERROR "class" @class . (_) @name)
(ERROR "function" @function . (identifier) @name)
(ERROR (property_identifier) @function @name . (formal_parameters))

; --- around a cursor

[(identifier) (property_identifier) (private_property_identifier) (shorthand_property_identifier)] @identifier
(comment) @comment
[(string) (template_string) (regex)] @string
(ERROR ["\"" "'" "`"] @unclosed)
(template_substitution) @code

[(program) (statement_block) (class_body) (switch_body) (switch_case) (switch_default)] @block
(switch_case value: (_) @label)

[(return_statement) (throw_statement) (break_statement) (continue_statement)] @leave
