-- How Neovim starts the language server. It says by itself in which languages it has suggestions.

--- Have line ends in suggestions as Neovim has them. It draws and inserts what it is sent, and for files of DOS
--- the server sends "\r\n".
---@param client table
local function translate_line_ends(client)
  local request = client.request
  client.request = function(self, method, params, handler, buffer)
    if method ~= 'textDocument/inlineCompletion' or not handler then
      return request(self, method, params, handler, buffer)
    end
    return request(self, method, params, function(err, result, ...)
      for _, item in ipairs(type(result) == 'table' and (result.items or result) or {}) do
        if type(item.insertText) == 'string' then
          item.insertText = item.insertText:gsub('\r\n?', '\n')
        end
      end
      return handler(err, result, ...)
    end, buffer)
  end
end

---@type vim.lsp.Config
return {
  cmd = { 'umbrella-lsp', '--stdio' },
  root_markers = { 'pyproject.toml', 'setup.py', 'setup.cfg', 'requirements.txt', '.git' },
  on_init = function(client)
    -- The plugin, if it is set up, does so itself.
    local is_set_up = vim.tbl_get(client.config, 'capabilities', 'experimental', 'umbrella')
    if vim.lsp.inline_completion and not is_set_up then
      translate_line_ends(client)
    end
  end,
}
