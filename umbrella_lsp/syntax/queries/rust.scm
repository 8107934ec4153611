(use_declaration) @import
(extern_crate_declaration) @import

(function_item name: (_) @name body: (_) @body) @function
(function_signature_item name: (_) @name) @function
(struct_item name: (_) @name body: (field_declaration_list) @body) @class
(struct_item name: (_) @name body: (ordered_field_declaration_list)) @class
(struct_item name: (_) @name !body) @class
(enum_item name: (_) @name body: (_) @body) @class
(union_item name: (_) @name body: (_) @body) @class
(trait_item name: (_) @name body: (_) @body) @type
(impl_item type: [(type_identifier) @name (generic_type type: (type_identifier) @name)] body: (_) @body) @class
(type_item name: (_) @name) @type
(const_item name: (_) @name) @variable
(static_item name: (_) @name) @variable
(mod_item name: (_) @name body: (_) @body) @module
(macro_definition name: (_) @name) @function

(ERROR "fn" @function . (identifier) @name)
(ERROR "impl" @class . (type_identifier) @name)
(ERROR "trait" @type . (type_identifier) @name)

; --- around a cursor

[(identifier) (field_identifier) (type_identifier) (shorthand_field_identifier)] @identifier
[(line_comment) (block_comment)] @comment
[(string_literal) (raw_string_literal) (char_literal)] @string
(ERROR "\"" @unclosed)

[(source_file) (block) (declaration_list) (match_block) (field_declaration_list) (enum_variant_list)] @block

(expression_statement [(return_expression) (break_expression) (continue_expression)]) @leave
(block [(return_expression) (break_expression) (continue_expression)] @leave)
