-- How Neovim starts the language server. It says by itself in which languages it has suggestions.

---@type vim.lsp.Config
return {
  cmd = { 'umbrella-lsp', '--stdio' },
  root_markers = { 'pyproject.toml', 'setup.py', 'setup.cfg', 'requirements.txt', '.git' },
}
