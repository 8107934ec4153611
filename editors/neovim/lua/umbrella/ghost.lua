-- Draws what is left of a suggestion at the cursor, and takes it away. Knows no server.

local suggestion = require('umbrella.suggestion')

local M = {}

local namespace = vim.api.nvim_create_namespace('umbrella')
local drawn_in ---@type integer? The buffer that has ghost text.

--- Give the highlight groups their looks, where neither the user nor the colour scheme has.
function M.set_highlights()
  vim.api.nvim_set_hl(0, 'UmbrellaSuggestion', { link = 'Comment', default = true })
  vim.api.nvim_set_hl(0, 'UmbrellaReplaced', { strikethrough = true, default = true })
end

--- With blanks for tabs, which virtual text does not align.
---@param text string
---@param column integer The display column that it begins in.
---@return string
---@return integer column Where it ends.
local function expand_tabs(text, column)
  local pieces = {}
  for piece, tab in text:gmatch('([^\t]*)(\t?)') do
    column = column + vim.fn.strdisplaywidth(piece, column)
    pieces[#pieces + 1] = piece
    if tab ~= '' then
      local width = vim.fn.strdisplaywidth('\t', column)
      pieces[#pieces + 1] = (' '):rep(width)
      column = column + width
    end
  end
  return table.concat(pieces), column
end

--- Draw at the cursor of the current window.
---@param rest umbrella.Rest
---@param row integer
---@param col integer
---@return boolean visible Whether there is anything to see of it.
function M.show(rest, row, col)
  M.clear()
  local layout = suggestion.layout(rest)
  if #layout.inserts == 0 then
    return false
  end
  local buffer = vim.api.nvim_get_current_buf()
  local line = vim.api.nvim_buf_get_lines(buffer, row, row + 1, false)[1] or ''
  local below = {}
  for _, text in ipairs(layout.lines) do
    below[#below + 1] = { { (expand_tabs(text, 0)), 'UmbrellaSuggestion' } }
  end
  local column, from = vim.fn.strdisplaywidth(line:sub(1, col)), col
  for index, insert in ipairs(layout.inserts) do
    local at = col + insert.offset
    column = column + vim.fn.strdisplaywidth(line:sub(from + 1, at), column)
    local text
    text, column = expand_tabs(insert.text, column)
    vim.api.nvim_buf_set_extmark(buffer, namespace, row, at, {
      virt_text = { { text, 'UmbrellaSuggestion' } },
      virt_text_pos = 'inline',
      virt_lines = index == 1 and #below > 0 and below or nil,
      virt_lines_overflow = vim.fn.has('nvim-0.11') == 1 and 'scroll' or nil,
      hl_mode = 'combine',
    })
    from = at
  end
  if layout.struck > 0 then
    vim.api.nvim_buf_set_extmark(buffer, namespace, row, col, {
      end_col = col + layout.struck,
      hl_group = 'UmbrellaReplaced',
    })
  end
  drawn_in = buffer
  return true
end

--- Take away what is drawn.
function M.clear()
  if drawn_in and vim.api.nvim_buf_is_valid(drawn_in) then
    vim.api.nvim_buf_clear_namespace(drawn_in, namespace, 0, -1)
  end
  drawn_in = nil
end

return M
