-- What the servers say of themselves, and how that reads in a status line. Draws nothing.

local config = require('umbrella.config')

local M = {}

---@class umbrella.Status
---@field kind 'none'|'starting'|'loading'|'ready'|'unloaded'|'off'|'error'
---@field message string A sentence for the user, or ''.
---@field busy boolean Whether a text is in the making.
---@field progress? number Of loading the model, from 0 to 1.
---@field model string
---@field languages string[] Where suggestions can be had; empty: anywhere.

---@type table<integer, umbrella.Status>
local said = {}

---@param value any
---@param kind string
---@param otherwise any
local function of_kind(value, kind, otherwise)
  if type(value) == kind then
    return value
  end
  return otherwise
end

--- Keep what a server says.
---@param client_id integer
---@param params table
function M.set(client_id, params)
  said[client_id] = {
    kind = of_kind(params.kind, 'string', 'ready'),
    message = of_kind(params.message, 'string', ''),
    busy = params.busy == true,
    progress = of_kind(params.progress, 'number', nil),
    model = of_kind(params.model, 'string', ''),
    languages = of_kind(params.languages, 'table', {}),
  }
end

---@param kind string
---@param message string
---@return umbrella.Status
local function plain(kind, message)
  return { kind = kind, message = message, busy = false, model = '', languages = {} }
end

--- How things stand for a file type, with the server of this id or with none.
---@param client_id? integer
---@param filetype string
---@return umbrella.Status
function M.of(client_id, filetype)
  if not client_id then
    return plain('none', 'No language server runs for this buffer. See :checkhealth umbrella.')
  end
  local status = vim.deepcopy(said[client_id] or plain('ready', ''))
  if not config.is_on() then
    status.kind, status.message = 'off', 'Suggestions are switched off. :Umbrella toggle switches them on.'
  elseif not config.is_on(filetype) then
    status.kind = 'off'
    local text = 'Suggestions are switched off for %s. :Umbrella toggle_language switches them on.'
    status.message = text:format(filetype)
  elseif #status.languages > 0 and not vim.list_contains(status.languages, filetype) then
    status.kind = 'off'
    status.message = ('There are no suggestions for %s; there are for %s.'):format(
      filetype ~= '' and filetype or 'this buffer',
      table.concat(status.languages, ', ')
    )
  end
  return status
end

--- A status in a word or two, '' without a server.
---@param status umbrella.Status
---@return string
function M.line(status)
  if status.kind == 'none' then
    return ''
  elseif status.kind == 'off' then
    return 'Umbrella off'
  elseif status.kind == 'error' then
    return 'Umbrella !'
  elseif status.kind == 'loading' and status.progress then
    return ('Umbrella %d%%'):format(math.floor(status.progress * 100 + 0.5))
  elseif status.busy or status.kind == 'loading' or status.kind == 'starting' then
    return 'Umbrella …'
  end
  return 'Umbrella'
end

return M
