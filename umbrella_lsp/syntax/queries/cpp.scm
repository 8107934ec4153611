(using_declaration) @import

(function_definition declarator: (reference_declarator (function_declarator declarator: [(identifier) (field_identifier) (operator_name)] @name)) body: (_) @body) @function
(function_definition declarator: (function_declarator declarator: [(destructor_name) (operator_name)] @name) body: (_) @body) @function
(function_definition declarator: (function_declarator declarator: (qualified_identifier name: [(identifier) (destructor_name) (operator_name)] @name)) body: (_) @body) @function
(function_definition declarator: (function_declarator declarator: (qualified_identifier name: (qualified_identifier name: [(identifier) (destructor_name)] @name))) body: (_) @body) @function
(field_declaration declarator: (function_declarator declarator: [(field_identifier) (operator_name)] @name)) @function
(field_declaration declarator: (pointer_declarator declarator: (function_declarator declarator: (field_identifier) @name))) @function
(field_declaration declarator: (reference_declarator (function_declarator declarator: [(field_identifier) (operator_name)] @name))) @function
(class_specifier name: (_) @name body: (_) @body) @class
(namespace_definition name: (_) @name body: (_) @body) @module
(alias_declaration name: (_) @name) @type
(concept_definition name: (_) @name) @type

(ERROR "class" @class . (type_identifier) @name)
(ERROR "namespace" @module . (namespace_identifier) @name)

; --- around a cursor

(namespace_identifier) @identifier
(raw_string_literal) @string
(declaration_list) @block
[(throw_statement) (co_return_statement)] @leave
