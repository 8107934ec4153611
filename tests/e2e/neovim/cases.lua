-- Runs the cases of a file, `nvim -l cases.lua FOLDER_OF_THE_PLUGIN FILE`: each is a function that is given
-- `same(found, expected)`. Ends with 1 if one fails, and says which.

local plugin, file = arg[1], arg[2]
vim.opt.runtimepath:prepend(plugin)

local function same(found, expected)
  if not vim.deep_equal(found, expected) then
    error(('found %s instead of %s'):format(vim.inspect(found), vim.inspect(expected)), 2)
  end
end

local failed = 0
local cases = dofile(file)
for name, case in vim.spairs(cases) do
  local passed, problem = xpcall(case, debug.traceback, same)
  if not passed then
    failed = failed + 1
    print(('%s: %s'):format(name, problem))
  end
end
os.exit(failed == 0 and next(cases) and 0 or 1)
