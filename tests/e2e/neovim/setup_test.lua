-- What `setup()` makes of options, the first time and again: run by `nvim -l`, with a server inside Neovim.

local folder = vim.fs.dirname(debug.getinfo(1, 'S').source:sub(2))
local umbrella = require('umbrella')
local config = require('umbrella.config')

local told = {} ---@type table[] The settings that the server was told of after its start.

local results = { initialize = { capabilities = {} } }
local server = dofile(vim.fs.joinpath(folder, 'server.lua'))(results, function(method, params)
  if method == 'workspace/didChangeConfiguration' then
    told[#told + 1] = params.settings.umbrella or vim.empty_dict()
  end
end)

local function is_mapped(key)
  return vim.fn.maparg(key, 'i', false, true).buffer == 1
end

--- Whether a new buffer gets a server. (No file type that Neovim knows: some scripts for those are slow.)
local function open(filetype)
  vim.cmd.enew()
  vim.bo.filetype = filetype
  local function attached()
    return vim.lsp.get_clients({ bufnr = 0, name = 'umbrella' })[1] ~= nil and is_mapped('<M-Right>')
  end
  return vim.wait(filetype == 'wanted' and 5000 or 20, attached, 5)
end

local function refused(options)
  local is_right, problem = pcall(umbrella.setup, options)
  return not is_right and vim.startswith(problem, 'umbrella: ')
end

return {
  ['options of an earlier setup are forgotten'] = function(same)
    vim.lsp.config('umbrella', { settings = { umbrella = { max_lines = 4 } } })
    umbrella.setup({ cmd = server, filetypes = { 'wanted' }, settings = { enabled = false } })
    same(open('unwanted'), false)
    same(open('wanted'), true)
    same(config.is_on(), false)

    umbrella.setup({ cmd = server, keymap = { accept = '<C-y>' } })

    same(told[#told], { max_lines = 4 })
    same(config.is_on(), true)
    same(vim.lsp.config.umbrella.filetypes, nil)
    same({ is_mapped('<Tab>'), is_mapped('<C-y>') }, { false, true })
    same(vim.fn.getcompletion('Umbrella toggle_', 'cmdline'), { 'toggle_language' })
    umbrella.setup({})
    same(vim.lsp.config.umbrella.cmd, { 'umbrella-lsp', '--stdio' })
    same(#vim.api.nvim_get_autocmds({ group = 'umbrella', event = 'LspAttach' }), 1)
  end,

  ['options without a use are refused in a sentence'] = function(same)
    for _, options in ipairs({
      { cmd = {} },
      { cmd = 'umbrella-lsp' },
      { debounce_ms = -1 },
      { filetypes = 'python' },
      { keymap = true },
      { keymap = { accept = '' } },
      { keymap = { accepts = '<Tab>' } },
      { key = '<Tab>' },
    }) do
      same({ options, refused(options) }, { options, true })
    end
    same(refused('fast'), true)
  end,

  ['settings that only the server can judge break nothing here'] = function(same)
    umbrella.setup({ cmd = server, settings = { disabled_languages = 'python' } })
    same(config.is_on('python'), true)
    umbrella.toggle('python')
    same(config.is_on('python'), false)
  end,

  ['it can be asked before it is set up, and in a buffer without a server'] = function(same)
    vim.cmd.enew()
    same(umbrella.statusline(), '')
    same(umbrella.status().kind, 'none')
    same(umbrella.accept(), false)
  end,
}
