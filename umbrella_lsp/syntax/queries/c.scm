; What C and C++ have in common.

(preproc_include) @import

(function_definition declarator: (function_declarator declarator: [(identifier) (field_identifier)] @name) body: (_) @body) @function
(function_definition declarator: (pointer_declarator declarator: (function_declarator declarator: [(identifier) (field_identifier)] @name)) body: (_) @body) @function
(function_definition declarator: (pointer_declarator declarator: (pointer_declarator declarator: (function_declarator declarator: [(identifier) (field_identifier)] @name))) body: (_) @body) @function
(declaration declarator: (function_declarator declarator: [(identifier) (field_identifier)] @name)) @function
(declaration declarator: (pointer_declarator declarator: (function_declarator declarator: [(identifier) (field_identifier)] @name))) @function
(struct_specifier name: (_) @name body: (_) @body) @class
(union_specifier name: (_) @name body: (_) @body) @class
(enum_specifier name: (_) @name body: (_) @body) @class
(type_definition declarator: (type_identifier) @name) @type
(declaration declarator: [(identifier) @name (init_declarator declarator: (identifier) @name)]) @variable
(preproc_def name: (_) @name) @variable
(preproc_function_def name: (_) @name) @function

(ERROR (function_declarator declarator: [(identifier) (field_identifier)] @name) @function)
(ERROR ["struct" "union" "enum"] @class . (type_identifier) @name)

; --- around a cursor

[(identifier) (field_identifier) (type_identifier)] @identifier
(comment) @comment
[(string_literal) (char_literal) (system_lib_string)] @string
(ERROR ["\"" "'"] @unclosed)

[(translation_unit) (compound_statement) (case_statement) (field_declaration_list) (enumerator_list)] @block
(case_statement value: (_) @label)

[(return_statement) (break_statement) (continue_statement) (goto_statement)] @leave
