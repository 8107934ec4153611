-- The keys. Each is mapped in the buffers that have a server, and does what it did before where there is nothing
-- for it to do.

local config = require('umbrella.config')

local M = {}

local DESCRIPTION = 'Umbrella: '

---@type table<string, {does: string, run: fun(): boolean}>
M.actions = {}

---@class umbrella.Mapped
---@field before? table The buffer's own mapping that ours hides, as of |maparg()|.

local mapped = {} ---@type table<integer, table<string, umbrella.Mapped>> By buffer and key.

--- The mapping of a key as |maparg()| has it.
---@param maps table[]
---@param key string
---@return table?
local function find(maps, key)
  local wanted = vim.keycode(key)
  for _, map in ipairs(maps) do
    if vim.keycode(map.lhs) == wanted then
      return map
    end
  end
end

---@param keys string
---@param is_remapped boolean
local function feed(keys, is_remapped)
  vim.api.nvim_feedkeys(keys, is_remapped and 'mi' or 'ni', false)
end

---@param map table
---@param text string
---@return string
local function with_script(map, text)
  return (text:gsub('<[sS][iI][dD]>', ('<SNR>%d_'):format(map.sid or 0)))
end

--- What a mapping stands for, now; nil if it has done something itself.
---@param map table
---@return string?
local function keys_of(map)
  if map.callback then
    local result = map.callback()
    if map.expr ~= 1 or type(result) ~= 'string' then
      return nil
    end
    return map.replace_keycodes == 1 and vim.keycode(result) or result
  end
  local text = with_script(map, map.rhs or '')
  if map.expr ~= 1 then
    return vim.keycode(text)
  end
  local result = tostring(vim.api.nvim_eval(text))
  return map.replace_keycodes == 1 and vim.keycode(result) or result
end

--- Do what a key would do without us.
---@param buffer integer
---@param key string
local function fall_back(buffer, key)
  local pressed = vim.keycode(key)
  local map = vim.tbl_get(mapped, buffer, key, 'before') or find(vim.api.nvim_get_keymap('i'), key)
  if not map then
    -- A key that was not typed expands no abbreviation by itself.
    local expand = vim.api.nvim_get_mode().mode == 'i' and vim.keycode('<C-]>') or ''
    feed(expand .. pressed, false)
    return
  end
  local keys = keys_of(map)
  if not keys or keys == '' then
    return
  elseif map.noremap == 1 or map.script == 1 then
    feed(keys, false)
  elseif vim.startswith(keys, pressed) then
    -- Neovim does not map a key again that begins its own mapping. What is fed last comes first.
    feed(keys:sub(#pressed + 1), true)
    feed(pressed, false)
  else
    feed(keys, true)
  end
end

--- Map the keys in a buffer.
---@param buffer integer
function M.attach(buffer)
  local keys = config.options.keymap
  if not keys or mapped[buffer] then
    return
  end
  mapped[buffer] = {}
  for name, key in pairs(keys) do
    local action = M.actions[name]
    if key then
      mapped[buffer][key] = { before = find(vim.api.nvim_buf_get_keymap(buffer, 'i'), key) }
      vim.keymap.set('i', key, function()
        if not action.run() then
          fall_back(buffer, key)
        end
      end, { buffer = buffer, desc = DESCRIPTION .. action.does })
    end
  end
end

--- Whether a buffer's key is ours yet.
---@param buffer integer
---@param key string
---@return boolean
function M.is_ours(buffer, key)
  local map = find(vim.api.nvim_buf_get_keymap(buffer, 'i'), key)
  return map ~= nil and vim.startswith(map.desc or '', DESCRIPTION)
end

--- The keys that were mapped, with their buffers.
---@return fun(): integer?, string?
function M.each()
  return coroutine.wrap(function()
    for buffer, keys in pairs(mapped) do
      if vim.api.nvim_buf_is_valid(buffer) then
        for key in pairs(keys) do
          coroutine.yield(buffer, key)
        end
      end
    end
  end)
end

--- Give a buffer its own mappings back.
---@param buffer integer
function M.detach(buffer)
  local keys = mapped[buffer] or {}
  mapped[buffer] = nil
  if not vim.api.nvim_buf_is_valid(buffer) then
    return
  end
  for key, was in pairs(keys) do
    if M.is_ours(buffer, key) then
      vim.keymap.del('i', key, { buffer = buffer })
      if was.before then
        vim.api.nvim_buf_call(buffer, function()
          vim.fn.mapset('i', false, was.before)
        end)
      end
    end
  end
end

--- Give all buffers their own mappings back.
function M.detach_all()
  for _, buffer in ipairs(vim.tbl_keys(mapped)) do
    M.detach(buffer)
  end
end

return M
