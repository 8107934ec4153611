-- `:Umbrella`.

local say = require('umbrella.say').say

local M = {}

---@type table<string, fun(umbrella: table)>
local subcommands = {
  toggle = function(umbrella)
    umbrella.toggle()
  end,
  toggle_language = function(umbrella)
    umbrella.toggle(vim.bo.filetype)
  end,
  status = function(umbrella)
    local status = umbrella.status()
    local parts = vim.tbl_filter(function(part)
      return part ~= ''
    end, { status.kind, status.model, status.message })
    say(table.concat(parts, '. '))
  end,
  statistics = function(umbrella)
    umbrella.statistics()
  end,
  unload = function(umbrella)
    umbrella.unload()
  end,
  restart = function(umbrella)
    umbrella.restart()
  end,
  log = function(umbrella)
    umbrella.log()
  end,
}

---@return string[]
local function names()
  local found = vim.tbl_keys(subcommands)
  table.sort(found)
  return found
end

--- Create the command.
function M.create()
  vim.api.nvim_create_user_command('Umbrella', function(call)
    local run = subcommands[call.args]
    if run then
      run(require('umbrella'))
    else
      local list = table.concat(names(), ', ')
      say(('there is no %q; there are %s.'):format(call.args, list), vim.log.levels.WARN)
    end
  end, {
    nargs = 1,
    desc = 'Umbrella: suggestions from your own language model',
    complete = function(lead)
      return vim.tbl_filter(function(name)
        return vim.startswith(name, lead)
      end, names())
    end,
  })
end

return M
