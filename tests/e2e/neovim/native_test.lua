-- The plugin's lsp/umbrella.lua alone, where Neovim itself draws suggestions: run by `nvim -l`.

local folder = vim.fs.dirname(debug.getinfo(1, 'S').source:sub(2))
local server = dofile(vim.fs.joinpath(folder, 'server.lua'))

return {
  ['a file of DOS is sent lines, and none ends with ^M'] = function(same)
    local suggested = { items = { { insertText = 'a:\r\n  b\r\n' } } }
    vim.lsp.config('umbrella', {
      cmd = server({
        initialize = { capabilities = { inlineCompletionProvider = true } },
        ['textDocument/inlineCompletion'] = suggested,
      }),
    })
    vim.lsp.enable('umbrella')
    vim.bo.filetype = 'wanted'
    local client
    vim.wait(5000, function()
      client = vim.lsp.get_clients({ bufnr = 0, name = 'umbrella' })[1]
      return client ~= nil and client.initialized
    end, 5)

    local answer = client:request_sync('textDocument/inlineCompletion', {}, 5000, 0)

    same(answer.result.items[1].insertText, 'a:\n  b\n')
  end,
}
