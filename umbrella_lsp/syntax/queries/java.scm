(import_declaration) @import

(class_declaration name: (_) @name body: (_) @body) @class
(enum_declaration name: (_) @name body: (_) @body) @class
(record_declaration name: (_) @name body: (_) @body) @class
(interface_declaration name: (_) @name body: (_) @body) @type
(annotation_type_declaration name: (_) @name body: (_) @body) @type
(method_declaration name: (_) @name body: (_) @body) @function
(method_declaration name: (_) @name !body) @function
(constructor_declaration name: (_) @name body: (_) @body) @function
(field_declaration declarator: (variable_declarator name: (_) @name)) @variable
(constant_declaration declarator: (variable_declarator name: (_) @name)) @variable

(ERROR "class" @class . (identifier) @name)
(ERROR "interface" @type . (identifier) @name)
(ERROR (identifier) @function @name . (formal_parameters))

; --- around a cursor

[(identifier) (type_identifier)] @identifier
[(line_comment) (block_comment)] @comment
[(string_literal) (character_literal)] @string
(ERROR ["\"" "\"\"\""] @unclosed)
(string_interpolation) @code

[(program) (block) (constructor_body) (class_body) (interface_body) (enum_body) (enum_body_declarations)
 (switch_block) (switch_block_statement_group)] @block
(switch_label) @label

[(return_statement) (throw_statement) (break_statement) (continue_statement) (yield_statement)] @leave
