-- `:checkhealth umbrella`.

local client = require('umbrella.client')
local config = require('umbrella.config')
local keymap = require('umbrella.keymap')

local M = {}

local WAIT_MS = 5000

---@return string
local function neovim_version()
  local version = vim.version()
  return ('%d.%d.%d'):format(version.major, version.minor, version.patch)
end

local function check_neovim()
  if vim.fn.has('nvim-0.10') == 1 then
    vim.health.ok('Neovim ' .. neovim_version())
  else
    vim.health.error('Neovim ' .. neovim_version() .. ' is too old.', 'Install Neovim 0.10 or newer.')
  end
end

--- Whether this plugin was set up, rather than `vim.lsp.enable` called alone.
---@return boolean
local function is_set_up()
  return vim.fn.exists('#umbrella#LspAttach') == 1
end

--- Whether Neovim's own inline completion is switched on, everywhere or for a buffer that has a server.
---@param native table
---@return boolean
local function is_native_on(native)
  local is_on = native.is_enabled()
  for _, running in ipairs(client.all()) do
    for buffer in pairs(running.attached_buffers) do
      is_on = is_on or native.is_enabled({ bufnr = buffer })
    end
  end
  return is_on
end

local function check_level()
  local native = vim.lsp.inline_completion
  if is_set_up() then
    vim.health.ok("The plugin is set up: it draws suggestions. Neovim's own inline completion leaves them to it.")
  elseif not native then
    vim.health.warn(
      'The plugin is not set up, and this Neovim draws no suggestions by itself.',
      "Put require('umbrella').setup{} into your init.lua."
    )
  elseif is_native_on(native) then
    vim.health.ok("The plugin is not set up: Neovim's own inline completion draws suggestions.")
  else
    vim.health.warn("Nothing draws suggestions: neither the plugin nor Neovim's own inline completion.", {
      "Put require('umbrella').setup{} into your init.lua,",
      'or vim.lsp.inline_completion.enable(), as :help umbrella-native says.',
    })
  end
  for _, running in ipairs(client.all()) do
    if is_set_up() and running.server_capabilities.inlineCompletionProvider then
      vim.health.error(
        ('Server %d was started by something else: its suggestions are drawn twice.'):format(running.id),
        'Call setup{} before vim.lsp.enable(), or run :Umbrella restart.'
      )
    end
  end
end

local function check_server()
  local command = client.command()
  if type(command) ~= 'table' then
    vim.health.ok('The server is started by a function of yours.')
    return
  end
  if client.missing() then
    vim.health.error(client.missing() .. ' was not found.', {
      'Install umbrella-lsp with pip, and put it on your PATH.',
      "Or name it: require('umbrella').setup{ cmd = { '/path/of/umbrella-lsp', '--stdio' } }.",
    })
    return
  end
  local found, answer = pcall(function()
    return vim.system({ command[1], '--version' }, { text = true }):wait(WAIT_MS)
  end)
  local version = found and answer.code == 0 and vim.trim(answer.stdout) or 'of unknown version'
  vim.health.ok(('%s (%s)'):format(vim.fn.exepath(command[1]), version))
end

---@param running table
local function check_engine(running)
  local answer, problem
  client.execute(running, 'umbrella.server.status', nil, function(err, result)
    answer, problem = result or {}, err
  end)
  vim.wait(WAIT_MS, function()
    return answer ~= nil
  end, 20)
  if type(answer) ~= 'table' or problem or not answer.kind then
    vim.health.warn('The server does not say how its engine is.', 'Update umbrella-lsp, or run :Umbrella log.')
    return
  end
  local model = answer.model ~= '' and answer.model or nil
  local text = ('Engine: %s%s'):format(answer.kind, model and ', ' .. model or '')
  if type(answer.message) == 'string' and answer.message ~= '' then
    text = text .. '. ' .. answer.message
  end
  if answer.kind == 'error' then
    vim.health.error(text, 'Run umbrella-lsp --doctor in a terminal.')
  else
    vim.health.ok(text)
  end
  if type(answer.languages) == 'table' and #answer.languages > 0 then
    vim.health.info('Suggestions are for ' .. table.concat(answer.languages, ', '))
  end
end

local function check_clients()
  local running = client.all()
  if #running == 0 and not client.missing() then
    vim.health.warn('No server runs.', 'Open a file; :Umbrella log shows why a server did not start.')
    return
  end
  for _, one in ipairs(running) do
    local buffers = vim.tbl_count(one.attached_buffers)
    local folder = one.config.root_dir or 'no folder'
    vim.health.ok(('Server %d serves %d buffer(s) in %s'):format(one.id, buffers, folder))
    check_engine(one)
  end
  if not config.is_on() then
    vim.health.warn('Suggestions are switched off.', ':Umbrella toggle switches them on.')
  end
end

local function check_keys()
  local keys = config.options.keymap
  if not is_set_up() then
    return
  elseif not keys then
    vim.health.info('All keys are turned off.')
    return
  end
  local lost, kept = 0, 0
  for buffer, key in keymap.each() do
    if keymap.is_ours(buffer, key) then
      kept = kept + 1
    else
      lost = lost + 1
      local name = vim.fn.fnamemodify(vim.api.nvim_buf_get_name(buffer), ':t')
      vim.health.warn(
        ('%s was mapped by something else in %s.'):format(key, name),
        'Choose another key in setup{ keymap = ... }, or call a function of :help umbrella-functions from it.'
      )
    end
  end
  if lost + kept == 0 then
    vim.health.info('No buffer has a server yet, so no keys are mapped.')
  elseif lost == 0 then
    vim.health.ok('The keys are mapped.')
  end
end

--- Say how things stand, and what to do about what is wrong.
function M.check()
  vim.health.start('umbrella: Neovim')
  check_neovim()
  check_level()
  vim.health.start('umbrella: language server')
  check_server()
  check_clients()
  vim.health.start('umbrella: keys')
  check_keys()
end

return M
