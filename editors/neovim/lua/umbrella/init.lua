-- Code completion from a language model on one's own machine: what users call, and how it hangs together.

local client = require('umbrella.client')
local config = require('umbrella.config')
local ghost = require('umbrella.ghost')
local inline = require('umbrella.inline')
local keymap = require('umbrella.keymap')
local menu = require('umbrella.menu')
local say = require('umbrella.say').say
local status = require('umbrella.status')
local suggestion = require('umbrella.suggestion')

local M = {}

--- What a status line shows is not what it was.
local function show_status()
  vim.cmd.redrawstatus({ bang = true })
  vim.api.nvim_exec_autocmds('User', { pattern = 'UmbrellaStatus', modeline = false })
end

--- Accept the suggestion.
---@return boolean done Whether there was one; as of all of these.
function M.accept()
  return inline.accept()
end

--- Accept its next word; the rest stays.
---@return boolean done
function M.accept_word()
  return inline.accept(suggestion.next_word)
end

--- Accept the rest of its line; the lines after that stay.
---@return boolean done
function M.accept_line()
  return inline.accept(suggestion.next_line)
end

--- Take the suggestion away until the text or the cursor changes.
---@return boolean done
function M.dismiss()
  return inline.dismiss()
end

--- Show the next suggestion for this place, or ask for one.
---@return boolean done
function M.next()
  return inline.cycle(1)
end

--- Show the one before.
---@return boolean done
function M.previous()
  return inline.cycle(-1)
end

--- Ask for a suggestion here and now.
---@return boolean done
function M.trigger()
  return inline.trigger()
end

--- Whether a suggestion is to be seen.
---@return boolean
function M.is_visible()
  return inline.is_visible()
end

--- How things stand in the current buffer.
---@return umbrella.Status
function M.status()
  local running = client.of(0)
  return status.of(running and running.id, vim.bo.filetype)
end

--- The same in a word or two, for a status line.
---@return string
function M.statusline()
  return status.line(M.status())
end

--- Switch suggestions on or off until Neovim ends: everywhere, or for a file type.
---@param filetype? string
function M.toggle(filetype)
  config.toggle(filetype)
  for _, running in ipairs(client.all()) do
    client.configure(running)
  end
  inline.leave()
  inline.update()
  show_status()
  say(('%s%s.'):format(config.is_on(filetype) and 'on' or 'off', filetype and ' for ' .. filetype or ''))
end

--- Run a command of the server that answers with a text, and show it.
---@param command string
---@param show fun(answer: table)
local function ask_server(command, show)
  local running = client.of(0) or client.all()[1]
  if not running then
    say('no language server runs. See :checkhealth umbrella.', vim.log.levels.WARN)
    return
  end
  client.execute(running, command, nil, function(err, answer)
    if err or type(answer) ~= 'table' then
      say(err and err.message or 'the server has no answer.', vim.log.levels.WARN)
    else
      show(answer)
    end
  end)
end

--- Show what became of suggestions.
function M.statistics()
  ask_server('umbrella.server.statistics', function(answer)
    local lines = vim.split(vim.trim(answer.text or ''), '\n', { plain = true })
    vim.lsp.util.open_floating_preview(lines, '', { border = 'none', focus_id = 'umbrella.statistics' })
  end)
end

--- Free the memory of the models; the next suggestion loads them again.
function M.unload()
  ask_server('umbrella.server.unload', function(answer)
    say(answer.message or 'the memory is free.')
  end)
end

--- Start the language server anew.
function M.restart()
  client.restart()
end

--- Show the log of Neovim's language servers, ours among them.
function M.log()
  local path = vim.lsp.log and vim.lsp.log.get_filename and vim.lsp.log.get_filename() or vim.lsp.get_log_path()
  vim.cmd.tabedit(vim.fn.fnameescape(path))
  vim.cmd.normal({ 'G', bang = true })
end

keymap.actions = {
  accept = { does = 'accept the suggestion', run = M.accept },
  accept_word = { does = 'accept a word of the suggestion', run = M.accept_word },
  accept_line = { does = 'accept a line of the suggestion', run = M.accept_line },
  dismiss = { does = 'dismiss the suggestion', run = M.dismiss },
  next = { does = 'show the next suggestion', run = M.next },
  previous = { does = 'show the previous suggestion', run = M.previous },
  trigger = { does = 'ask for a suggestion', run = M.trigger },
}

client.on_notification('umbrella/status', function(client_id, params)
  status.set(client_id, params)
  show_status()
end)
client.on_notification('window/showMessage', function(_, params)
  -- The protocol's levels begin with the worst, Neovim's end with it.
  say(params.message, math.max(vim.log.levels.ERROR + 1 - params.type, vim.log.levels.INFO))
end)
client.on_notification('umbrella/refresh', function(_, params)
  inline.refresh(params.uri)
end)

---@param group integer
---@param events string|string[]
---@param callback fun(event: table)
---@param pattern? string[]
local function on(group, events, callback, pattern)
  vim.api.nvim_create_autocmd(events, { group = group, pattern = pattern, callback = callback })
end

--- Suggest from now on. May be called again, with other options.
---@param options? table |umbrella-options|
function M.setup(options)
  if vim.fn.has('nvim-0.10') == 0 then
    say('Neovim 0.10 or newer is needed.', vim.log.levels.ERROR)
    return
  end
  config.set(options)
  ghost.set_highlights()
  keymap.detach_all()
  inline.leave()
  local group = vim.api.nvim_create_augroup('umbrella', {})
  on(group, 'LspAttach', function(event)
    local attached = vim.lsp.get_client_by_id(event.data.client_id)
    if attached and attached.name == client.NAME then
      client.adopt(attached)
      inline.update()
      -- Last, over whatever the user and plugins for the file type map there.
      vim.schedule(function()
        if client.of(event.buf) then
          keymap.attach(event.buf)
        end
      end)
    end
  end)
  on(group, 'LspDetach', function(event)
    local detached = vim.lsp.get_client_by_id(event.data.client_id)
    if detached and detached.name == client.NAME then
      inline.leave()
      keymap.detach(event.buf)
      -- The last word of a server that ends is not its state.
      vim.schedule(show_status)
    end
  end)
  on(group, { 'TextChangedI', 'TextChangedP', 'CursorMovedI' }, inline.update)
  on(group, 'ModeChanged', inline.update, { '*:i*', 'i*:*' })
  on(group, { 'BufLeave', 'WinLeave', 'RecordingEnter' }, inline.leave)
  on(group, 'ColorScheme', ghost.set_highlights)
  menu.watch(group, inline.update_menu)
  require('umbrella.command').create()
  for _, running in ipairs(client.all()) do
    for buffer in pairs(running.attached_buffers) do
      keymap.attach(buffer)
    end
  end
  client.set_up()
end

return M
