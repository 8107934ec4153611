-- The language server: starting and stopping it, asking it and telling it. Knows no text and draws nothing. What
-- differs between the versions of Neovim is kept here.

local config = require('umbrella.config')
local say = require('umbrella.say').say

local M = {}

M.NAME = 'umbrella'

local HOW_TO_INSTALL = '%s was not found: see :help umbrella-install. Put umbrella-lsp on your PATH, or name it in '
  .. "require('umbrella').setup({ cmd = { ... } }). Then run :Umbrella restart."
local STOP_MS, POLL_MS = 5000, 50

local has_lsp_config = vim.fn.has('nvim-0.11') == 1

---@type table<string, fun(client_id: integer, params: table)>
local notified = {}
local told_missing ---@type string? The user knows that this program is not there.

local OPTIONS = { 'cmd', 'filetypes', 'settings' }
local theirs = {} -- What the user has given to `vim.lsp.config` for these.
local written = {} -- What `vim.lsp.config` held for them when this plugin had written there.

--- Call a method of a Neovim client, which takes itself as an argument from 0.11 on.
---@param client table
---@param method string
local function call(client, method, ...)
  if has_lsp_config then
    return client[method](client, ...)
  end
  return client[method](...)
end

--- Have a function called with the notifications of a method that a server sends.
---@param method string
---@param callback fun(client_id: integer, params: table)
function M.on_notification(method, callback)
  notified[method] = callback
end

--- What lsp/umbrella.lua says, which is all that Neovim has from us where the plugin is not set up.
---@return table
local function base_config()
  local folder = vim.fn.fnamemodify(debug.getinfo(1, 'S').source:sub(2), ':p:h:h:h')
  return dofile(folder .. '/lsp/umbrella.lua')
end

--- The command that starts the server.
---@return string[]|function
function M.command()
  if config.options.cmd then
    return config.options.cmd
  end
  local configured = has_lsp_config and vim.lsp.config[M.NAME]
  return configured and configured.cmd or base_config().cmd
end

--- The program that starts the server if it cannot be found, else nil.
---@return string?
function M.missing()
  local command = M.command()
  if type(command) ~= 'table' or vim.fn.executable(command[1]) == 1 then
    return nil
  end
  return tostring(command[1])
end

--- What the server is told of the user's choices, over those that it was started with.
---@param settings? table
---@return table
local function with_settings(settings)
  local section = vim.tbl_extend('force', (settings or {})[M.NAME] or {}, config.options.settings)
  -- An empty table would be sent as a list.
  return vim.tbl_extend('force', settings or {}, { [M.NAME] = next(section) and section or nil })
end

---@return table
local function our_config()
  -- Neovim 0.11 and newer adds what it can do by itself.
  local capabilities = has_lsp_config and { textDocument = {} } or vim.lsp.protocol.make_client_capabilities()
  capabilities.textDocument.inlineCompletion = { dynamicRegistration = false }
  capabilities.experimental = { [M.NAME] = { status = true, refresh = true } }
  local handlers = {}
  for method, callback in pairs(notified) do
    handlers[method] = function(_, params, context)
      callback(context.client_id, params)
    end
  end
  return {
    cmd = config.options.cmd,
    filetypes = config.options.filetypes,
    settings = next(config.options.settings) and with_settings() or nil,
    capabilities = capabilities,
    handlers = handlers,
  }
end

--- Start the server for a buffer, as `vim.lsp.enable` does from Neovim 0.11 on.
---@param buffer integer
local function start_in(buffer)
  local filetypes = config.options.filetypes
  if
    vim.bo[buffer].buftype ~= ''
    or vim.bo[buffer].filetype == ''
    or (filetypes and not vim.list_contains(filetypes, vim.bo[buffer].filetype))
    or M.missing()
  then
    return
  end
  local chosen = vim.tbl_extend('force', base_config(), our_config())
  chosen.name = M.NAME
  chosen.root_dir = vim.fs.root(buffer, chosen.root_markers)
  vim.lsp.start(chosen, {
    bufnr = buffer,
    reuse_client = function(running, wanted)
      return running.name == wanted.name and running.config.root_dir == wanted.root_dir
    end,
  })
end

--- Have `vim.lsp.config` say what the user has given to it and, over that, the options of now, not those of an
--- earlier setup.
local function write_config()
  local config_now = vim.deepcopy(vim.lsp.config[M.NAME])
  for _, name in ipairs(OPTIONS) do
    if not vim.deep_equal(config_now[name], written[name]) then
      theirs[name] = config_now[name]
    end
    config_now[name] = nil
  end
  vim.lsp.config[M.NAME] = vim.tbl_deep_extend('force', config_now, theirs, our_config())
  for _, name in ipairs(OPTIONS) do
    written[name] = vim.lsp.config[M.NAME][name]
  end
end

--- Start the server wherever it is wanted, from now on; the user is told if it cannot be found.
function M.start()
  local missing = M.missing()
  if missing then
    if missing ~= told_missing then
      told_missing = missing
      vim.schedule(function()
        say(HOW_TO_INSTALL:format(missing), vim.log.levels.WARN)
      end)
    end
    return
  end
  if has_lsp_config then
    write_config()
    vim.lsp.enable(M.NAME)
    return
  end
  vim.api.nvim_create_autocmd('FileType', {
    group = vim.api.nvim_create_augroup('umbrella.start', {}),
    callback = function(event)
      start_in(event.buf)
    end,
  })
  for _, buffer in ipairs(vim.api.nvim_list_bufs()) do
    if vim.api.nvim_buf_is_loaded(buffer) then
      start_in(buffer)
    end
  end
end

--- The servers that run.
---@return table[]
function M.all()
  return vim.lsp.get_clients({ name = M.NAME })
end

--- The server of a buffer.
---@param buffer integer
---@return table?
function M.of(buffer)
  return vim.api.nvim_buf_is_valid(buffer) and vim.lsp.get_clients({ name = M.NAME, bufnr = buffer })[1] or nil
end

--- Whether a server knows that this plugin draws, which it is told as it starts.
---@param client table
---@return boolean
local function is_ours(client)
  return vim.tbl_get(client.config, 'capabilities', 'experimental', M.NAME) ~= nil
end

--- Make a server this plugin's: Neovim itself must not draw its suggestions, too.
---@param client table
function M.adopt(client)
  if vim.lsp.inline_completion then
    vim.lsp.inline_completion.enable(false, { client_id = client.id })
  end
  client.server_capabilities.inlineCompletionProvider = nil
  M.configure(client)
end

--- Tell a server of the user's choices if they are not those it knows.
---@param client table
function M.configure(client)
  local settings = with_settings(is_ours(client) and theirs.settings or client.settings)
  if not vim.deep_equal(settings, client.settings) then
    client.settings = settings
    M.notify(client, 'workspace/didChangeConfiguration', { settings = settings })
  end
end

--- Ask a server; the returned function withdraws the question.
---@param client table
---@param method string
---@param params table
---@param handler fun(err: table?, result: any)
---@param buffer? integer
---@return fun()
function M.request(client, method, params, handler, buffer)
  local sent, id = call(client, 'request', method, params, handler, buffer or vim.api.nvim_get_current_buf())
  return function()
    if sent and id then
      call(client, 'cancel_request', id)
    end
  end
end

---@param client table
---@param method string
---@param params table
function M.notify(client, method, params)
  call(client, 'notify', method, params)
end

--- Run a command of the server.
---@param client table
---@param command string
---@param arguments? any[]
---@param handler? fun(err: table?, result: any)
function M.execute(client, command, arguments, handler)
  local params = { command = command, arguments = arguments }
  M.request(client, 'workspace/executeCommand', params, handler or function() end)
end

--- Stop the servers and start them anew.
function M.restart()
  told_missing = nil
  local stopping = M.all()
  for _, client in ipairs(stopping) do
    call(client, 'stop')
  end
  local waited = 0
  local function go_on()
    local left = vim.tbl_filter(function(client)
      return vim.lsp.get_client_by_id(client.id) ~= nil
    end, stopping)
    if #left == 0 then
      M.start()
      return
    end
    waited = waited + POLL_MS
    if waited == STOP_MS then
      for _, client in ipairs(left) do
        call(client, 'stop', true)
      end
    end
    vim.defer_fn(go_on, POLL_MS)
  end
  go_on()
end

--- Start the servers, and those anew that were started before this plugin was set up.
function M.set_up()
  for _, client in ipairs(M.all()) do
    if not is_ours(client) then
      M.restart()
      return
    end
  end
  M.start()
  for _, client in ipairs(M.all()) do
    M.configure(client)
  end
end

return M
