-- Types into a Neovim as a user would, and reports what that user would have seen.
--
--   nvim -l drive_nvim.lua NVIM FILE KEYS [VARIABLE]
--
-- starts NVIM on FILE with the configuration that XDG_CONFIG_HOME names, waits for the language server, types
-- KEYS, waits for ghost text, accepts it with Tab, and prints one JSON object: the lines before and after, the
-- cursor (line from 1, byte column from 0) and the ghost text. Each wait ends as soon as what it waits for is
-- there; one that is in vain ends the run with a sentence on stderr and exit code 1.

local nvim, file, keys = arg[1], arg[2], arg[3]
local WAIT_MS = 60000 -- a cold engine loads its model meanwhile
local POLL_MS = 20

local channel = vim.fn.jobstart({ nvim, '--embed', '--headless', '-i', 'NONE', '-n', file }, { rpc = true })
assert(channel > 0, 'cannot start ' .. nvim)

local function call(method, ...)
  return vim.rpcrequest(channel, method, ...)
end

local function inside(lua)
  return call('nvim_exec_lua', lua, {})
end

local function give_up(reason)
  local messages = inside([[return vim.fn.execute('messages')]])
  local log = inside([[
    local name = vim.lsp.log.get_filename()
    return vim.fn.filereadable(name) == 1 and table.concat(vim.fn.readfile(name), '\n') or ''
  ]])
  vim.fn.jobstop(channel)
  io.stderr:write(('%s\nmessages:%s\nlog:\n%s\n'):format(reason, messages, log))
  os.exit(1)
end

local function wait_for(what, condition)
  local value
  local met = vim.wait(WAIT_MS, function()
    if inside([[return vim.fn.execute('messages')]]):find('quit with exit code') then
      give_up('the language server ended')
    end
    value = condition()
    return value and value ~= vim.NIL
  end, POLL_MS)
  if not met then
    give_up('no ' .. what .. ' within ' .. WAIT_MS .. ' ms')
  end
  return value
end

local function lines()
  return call('nvim_buf_get_lines', 0, 0, -1, true)
end

--- The suggestion as drawn, or nil.
local function ghost()
  return inside([[
    local namespace = vim.api.nvim_get_namespaces()['nvim.lsp.inline_completion']
    local marks = namespace and vim.api.nvim_buf_get_extmarks(0, namespace, 0, -1, { details = true }) or {}
    if #marks == 0 then return nil end
    local drawn = { marks[1][4].virt_text[1][1] }
    for _, line in ipairs(marks[1][4].virt_lines or {}) do
      table.insert(drawn, line[1][1])
    end
    return table.concat(drawn, '\n')
  ]])
end

wait_for('language server', function()
  return inside([[
    local client = vim.lsp.get_clients({ bufnr = 0, method = 'textDocument/inlineCompletion' })[1]
    return client ~= nil and client.initialized == true
  ]])
end)

call('nvim_input', keys)
local seen = { ghost = wait_for('ghost text', ghost) }
seen.before = lines()
seen.cursor = call('nvim_win_get_cursor', 0)

call('nvim_input', '<Tab>')
wait_for('accepted text', function()
  return not vim.deep_equal(lines(), seen.before)
end)
seen.after = lines()

call('nvim_command', 'stopinsert')
call('nvim_command', 'silent write')
vim.rpcnotify(channel, 'nvim_command', 'quitall!')
vim.fn.jobwait({ channel })
io.stdout:write(vim.json.encode(seen))
