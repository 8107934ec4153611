-- Sentences for the user, who may be typing: one too long for the command line would have Neovim wait for Enter,
-- and eat the keys.

local M = {}

local MORE = '… (see :messages)'

--- Whether messages go where Neovim itself shows them, rather than to a plugin of the user's.
---@return boolean
local function is_builtin()
  local source = debug.getinfo(vim.notify, 'S').source
  return not vim.startswith(source, '@') or source:find('vim/_', 1, true) ~= nil
end

--- A text in lines of so many columns, broken at blanks where it can be.
---@param text string
---@param columns integer
---@return string[]
local function fold(text, columns)
  local lines = { '' }
  for word in text:gmatch('%S+') do
    local longer = lines[#lines] == '' and word or lines[#lines] .. ' ' .. word
    if vim.fn.strdisplaywidth(longer) <= columns then
      lines[#lines] = longer
    else
      lines[#lines + 1] = word
      while vim.fn.strdisplaywidth(lines[#lines]) > columns do
        lines[#lines + 1] = vim.fn.strcharpart(lines[#lines], columns)
        lines[#lines - 1] = vim.fn.strcharpart(lines[#lines - 1], 0, columns)
      end
    end
  end
  return lines
end

--- Say a sentence; what does not fit is kept in |:messages|.
---@param text string
---@param level? integer
function M.say(text, level)
  level = level or vim.log.levels.INFO
  if not vim.startswith(text, 'Umbrella') then
    text = 'Umbrella: ' .. text
  end
  text = text:gsub('%s+', ' ')
  local room = math.max(vim.v.echospace, 20)
  if not is_builtin() or vim.fn.strdisplaywidth(text) <= room then
    vim.notify(text, level)
    return
  end
  local highlight = level >= vim.log.levels.WARN and 'WarningMsg' or ''
  -- Line by line, as Neovim waits for Enter where one message makes another scroll.
  for _, line in ipairs(fold(text, room)) do
    vim.api.nvim_echo({ { line, highlight } }, true, {})
    vim.cmd.redraw()
  end
  local short = vim.fn.strcharpart(text, 0, math.max(room - vim.fn.strdisplaywidth(MORE), 0))
  vim.api.nvim_echo({ { short .. MORE, highlight } }, false, {})
end

return M
