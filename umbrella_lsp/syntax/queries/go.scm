(import_declaration) @import

(function_declaration name: (_) @name body: (_) @body) @function
(method_declaration name: (_) @name body: (_) @body) @function
(type_spec name: (_) @name type: (struct_type (field_declaration_list) @body)) @class
(type_spec name: (_) @name) @type
(type_alias name: (_) @name) @type
(const_spec name: (identifier) @name) @variable
(var_spec name: (identifier) @name) @variable

; The function whose body is still open is one without a body.
(function_declaration name: (_) @name !body) @function
(method_declaration name: (_) @name !body) @function
(ERROR "func" @function . (identifier) @name)

; --- around a cursor

[(identifier) (field_identifier) (type_identifier) (package_identifier)] @identifier
(comment) @comment
[(interpreted_string_literal) (raw_string_literal) (rune_literal)] @string
(ERROR ["\"" "`"] @unclosed)

[(source_file) (block) (statement_list) (field_declaration_list) (expression_switch_statement)
 (type_switch_statement) (select_statement)] @block

[(return_statement) (break_statement) (continue_statement) (goto_statement)] @leave
