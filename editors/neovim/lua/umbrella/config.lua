-- What the user can choose, checked and complete.

local M = {}

---@class umbrella.Keymap
---@field accept? string|false Accept the whole suggestion.
---@field accept_word? string|false
---@field accept_line? string|false
---@field dismiss? string|false
---@field next? string|false
---@field previous? string|false
---@field trigger? string|false Ask for a suggestion.

---@class umbrella.Options
---@field cmd? string[]|function What starts the server; as in |vim.lsp.ClientConfig|.
---@field settings table The server's own settings, without the name of their section.
---@field filetypes? string[] Where to suggest; nil: everywhere the server knows the language.
---@field auto_trigger boolean Whether to ask while the user types, or only when the user asks.
---@field debounce_ms integer How long a pause in typing lasts before the server is asked.
---@field keymap umbrella.Keymap|false Keys of insert mode; `false` turns a key, or all of them, off.

---@type umbrella.Options
M.defaults = {
  settings = {},
  auto_trigger = true,
  debounce_ms = 40,
  keymap = {
    accept = '<Tab>',
    accept_word = '<M-Right>',
    accept_line = '<M-C-Right>',
    dismiss = '<C-]>',
    next = '<M-]>',
    previous = '<M-[>',
    trigger = '<M-\\>',
  },
}

local KINDS = {
  cmd = { 'table', 'function' },
  settings = { 'table' },
  filetypes = { 'table' },
  auto_trigger = { 'boolean' },
  debounce_ms = { 'number' },
  keymap = { 'table', 'boolean' },
}

---@type umbrella.Options
M.options = vim.deepcopy(M.defaults)

---@param names table<string, any>
---@return string
local function listed(names)
  local keys = vim.tbl_keys(names)
  table.sort(keys)
  return table.concat(keys, ', ')
end

--- Whether nothing can be done with a value, though it is of the right kind.
---@param name string
---@param value any
---@return boolean
local function is_useless(name, value)
  return (name == 'keymap' and value == true)
    or (name == 'debounce_ms' and value < 0)
    or (name == 'cmd' and type(value) == 'table' and type(value[1]) ~= 'string')
end

--- Take the user's options; an error says what is wrong with them.
---@param given? table
function M.set(given)
  given = given or {}
  if type(given) ~= 'table' then
    error(('umbrella: setup() takes a table of options, not %s'):format(vim.inspect(given)), 0)
  end
  for name, value in pairs(given) do
    local kinds = KINDS[name]
    if not kinds then
      error(('umbrella: there is no option %q; there are %s'):format(name, listed(KINDS)), 0)
    elseif not vim.list_contains(kinds, type(value)) or is_useless(name, value) then
      error(('umbrella: the option %q has no use for %s'):format(name, vim.inspect(value)), 0)
    end
  end
  for name, key in pairs(given.keymap or {}) do
    if M.defaults.keymap[name] == nil then
      error(('umbrella: there is no key for %q; there are %s'):format(name, listed(M.defaults.keymap)), 0)
    elseif key ~= false and (type(key) ~= 'string' or key == '') then
      error(('umbrella: the key for %q must be a text, or false for none'):format(name), 0)
    end
  end
  M.options = vim.tbl_extend('force', vim.deepcopy(M.defaults), vim.deepcopy(given))
  if given.keymap then
    M.options.keymap = vim.tbl_extend('force', M.defaults.keymap, given.keymap)
  end
end

--- The file types that the user wants no suggestions in. The server says so where they are no list.
---@return string[]
local function disabled_languages()
  local languages = M.options.settings.disabled_languages
  return type(languages) == 'table' and languages or {}
end

--- Whether suggestions are switched on, everywhere or for a file type.
---@param filetype? string
---@return boolean
function M.is_on(filetype)
  return M.options.settings.enabled ~= false
    and not (filetype and vim.list_contains(disabled_languages(), filetype))
end

--- Switch suggestions on or off, everywhere or for a file type. The server's settings say so too, so that it
--- need not guess.
---@param filetype? string
function M.toggle(filetype)
  local settings = M.options.settings
  if not filetype then
    settings.enabled = not M.is_on()
    return
  end
  local was_on = M.is_on(filetype)
  if settings.enabled == false then
    settings.enabled = true
  end
  settings.disabled_languages = vim.tbl_filter(function(language)
    return language ~= filetype
  end, disabled_languages())
  if was_on then
    table.insert(settings.disabled_languages, filetype)
  end
end

return M
