-- What somebody at this Neovim sees of suggestions. Tests load it into the Neovim that they drive, as
-- `_G.look`; it only reads.

local HINT = { umbrella = 'UmbrellaSuggestion', ['nvim.lsp.inline_completion'] = 'ComplHint' }

local function text_of(chunks, group)
  local text = {}
  for _, chunk in ipairs(chunks or {}) do
    local groups = type(chunk[2]) == 'table' and chunk[2] or { chunk[2] }
    if vim.tbl_contains(groups, group) then
      table.insert(text, chunk[1])
    end
  end
  return table.concat(text)
end

local look = { frames = {} }

--- Each piece of ghost text in the current buffer, in whichever namespace: an extmark's own lines as one.
function look.ghosts()
  local found = {}
  for source, group in pairs(HINT) do
    local namespace = vim.api.nvim_get_namespaces()[source]
    local marks = namespace and vim.api.nvim_buf_get_extmarks(0, namespace, 0, -1, { details = true }) or {}
    for _, mark in ipairs(marks) do
      local lines = { text_of(mark[4].virt_text, group) }
      for _, line in ipairs(mark[4].virt_lines or {}) do
        table.insert(lines, text_of(line, group))
      end
      local text = table.concat(lines, '\n')
      if text ~= '' then
        table.insert(found, { text = text, row = mark[2], column = mark[3], source = source })
      end
    end
  end
  return found
end

--- Note from now on, at each redraw, what is written and the ghost text.
function look.watch()
  look.frames = {}
end

vim.api.nvim_set_decoration_provider(vim.api.nvim_create_namespace('look'), {
  on_end = function()
    table.insert(look.frames, { lines = vim.api.nvim_buf_get_lines(0, 0, -1, true), ghosts = look.ghosts() })
  end,
})

_G.look = look
