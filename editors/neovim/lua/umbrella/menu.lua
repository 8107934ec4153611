-- Whether a menu of completions is open: Neovim's own, nvim-cmp's or blink.cmp's.

local M = {}

local is_blink_open = false
local is_cmp_known = false

--- Whether the user sees one now.
---@return boolean
function M.is_open()
  local cmp = package.loaded['cmp']
  return vim.fn.pumvisible() == 1
    or is_blink_open
    or (type(cmp) == 'table' and type(cmp.visible) == 'function' and cmp.visible() == true)
end

--- Have a function called as one opens or closes.
---@param group integer
---@param changed fun()
function M.watch(group, changed)
  vim.api.nvim_create_autocmd({ 'CompleteChanged', 'CompleteDone' }, {
    group = group,
    callback = vim.schedule_wrap(changed),
  })
  vim.api.nvim_create_autocmd('User', {
    group = group,
    pattern = { 'BlinkCmpMenuOpen', 'BlinkCmpMenuClose' },
    callback = function(event)
      is_blink_open = event.match == 'BlinkCmpMenuOpen'
      changed()
    end,
  })
  vim.api.nvim_create_autocmd('InsertEnter', {
    group = group,
    callback = function()
      local cmp = package.loaded['cmp']
      if type(cmp) == 'table' and cmp.event and not is_cmp_known then
        is_cmp_known = true
        cmp.event:on('menu_opened', changed)
        cmp.event:on('menu_closed', vim.schedule_wrap(changed))
      end
    end,
  })
end

return M
