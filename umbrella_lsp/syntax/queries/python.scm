(import_statement) @import
(import_from_statement) @import
(future_import_statement) @import

(class_definition name: (identifier) @name body: (_) @body) @class
(function_definition name: (identifier) @name body: (_) @body) @function
(expression_statement (assignment left: (identifier) @name)) @variable
(type_alias_statement left: (type (identifier) @name)) @type

; While a bracket is open, what encloses it is often no more than a row of tokens.
(ERROR "class" @class . (identifier) @name)
(ERROR "def" @function . (identifier) @name)

; --- around a cursor

(identifier) @identifier
(comment) @comment
(string) @string
(ERROR (string_start) @unclosed)
(interpolation) @code

[(module) (block)] @block

; `pass` is only written where nothing else is.
[(return_statement) (raise_statement) (break_statement) (continue_statement) (pass_statement)] @leave

(function_definition ":" @opener)
(class_definition ":" @opener)
(if_statement ":" @opener)
(elif_clause ":" @opener)
(else_clause ":" @opener)
(for_statement ":" @opener)
(while_statement ":" @opener)
(try_statement ":" @opener)
(except_clause ":" @opener)
(finally_clause ":" @opener)
(with_statement ":" @opener)
(match_statement ":" @opener)
(case_clause ":" @opener)
(ERROR ["elif" "else" "except" "finally"] (_)? ":" @opener)
