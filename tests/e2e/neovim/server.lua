-- A language server inside Neovim, for `cmd`: it answers each method with what `results` has for it, and calls
-- `told` with each notification.

---@param results table<string, any>
---@param told? fun(method: string, params: any)
return function(results, told)
  return function(dispatchers)
    local is_closing, id = false, 0
    return {
      request = function(method, _, answer)
        id = id + 1
        vim.schedule(function()
          answer(nil, results[method] or vim.NIL)
        end)
        return true, id
      end,
      notify = function(method, params)
        if told then
          told(method, params)
        end
        if method == 'exit' then
          is_closing = true
          dispatchers.on_exit(0, 0)
        end
        return true
      end,
      is_closing = function()
        return is_closing
      end,
      terminate = function()
        is_closing = true
      end,
    }
  end
end
