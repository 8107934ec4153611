-- When to ask, what is shown, and what becomes of it: the one suggestion at the cursor of the user.

local client = require('umbrella.client')
local config = require('umbrella.config')
local ghost = require('umbrella.ghost')
local menu = require('umbrella.menu')
local suggestion = require('umbrella.suggestion')

local M = {}

local METHOD = 'textDocument/inlineCompletion'
local INVOKED, AUTOMATIC = 1, 2

---@class umbrella.Place Where the cursor stands, in which text.
---@field buffer integer
---@field tick integer
---@field row integer
---@field col integer

---@class umbrella.Offer What the server has answered.
---@field buffer integer
---@field client_id integer
---@field suggestions umbrella.Suggestion[]
---@field index integer The one of them that is shown.
---@field is_complete boolean Whether it has all the alternatives.
---@field is_chosen boolean Whether the user has chosen among them.

local offer ---@type umbrella.Offer?
local rest ---@type umbrella.Rest? What is left of the offer at the cursor, whether it is drawn or not.
local is_drawn = false
local seen ---@type umbrella.Place? What has been dealt with.
local dismissed ---@type umbrella.Place? Where the user wants no suggestion.
local open ---@type {kind: 1|2, withdraw: fun()}? The question that has no answer yet.
local question = 0 -- The number of the latest one: an answer to another is outdated.
local told = {} ---@type table<string, true> The answers of the current offer that the server knows were shown.
local timer ---@type table?

---@return umbrella.Place
local function here()
  local cursor = vim.api.nvim_win_get_cursor(0)
  local buffer = vim.api.nvim_get_current_buf()
  return {
    buffer = buffer,
    tick = vim.api.nvim_buf_get_changedtick(buffer),
    row = cursor[1] - 1,
    col = cursor[2],
  }
end

--- The server to ask, if suggestions are wanted here at all.
---@return table?
local function server()
  if
    vim.api.nvim_get_mode().mode:sub(1, 1) ~= 'i'
    or vim.bo.buftype ~= ''
    -- It switches mappings off: no key could accept anything.
    or vim.o.paste
    -- With 'virtualedit', the cursor may be beyond the text.
    or vim.fn.getpos('.')[4] ~= 0
    or not config.is_on(vim.bo.filetype)
    -- A macro must not depend on what a model says.
    or vim.fn.reg_recording() ~= ''
    or vim.fn.reg_executing() ~= ''
  then
    return nil
  end
  return client.of(0)
end

local function stop_asking()
  if timer then
    timer:stop()
  end
  question = question + 1
  if open then
    open.withdraw()
    open = nil
  end
end

local function hide()
  ghost.clear()
  is_drawn = false
end

local function forget()
  hide()
  offer, rest, told = nil, nil, {}
end

--- Tell the server what became of an answer.
---@param event 'shown'|'partly'|'dismissed'
---@param length? integer
local function feed_back(event, length)
  local current = offer and offer.suggestions[offer.index]
  local asked = current and vim.lsp.get_client_by_id(offer.client_id)
  if asked and current.id then
    client.notify(asked, 'umbrella/feedback', { id = current.id, event = event, length = length })
  end
end

--- What is left of one of the offer's suggestions at the cursor.
---@param index integer
---@return umbrella.Rest?
local function rest_of(index)
  local place, one = here(), offer.suggestions[index]
  if place.buffer ~= offer.buffer or place.row < one.row then
    return nil
  end
  local lines = vim.api.nvim_buf_get_lines(place.buffer, one.row, place.row + 1, false)
  local left = suggestion.rest(one, lines, place.row, place.col)
  return left and left.text ~= '' and left or nil
end

--- Draw what is left of the offer, of the suggestion that the user saw if it can be; forget it if nothing is.
local function draw()
  rest = nil
  for step = 0, offer and #offer.suggestions - 1 or -1 do
    local index = (offer.index + step - 1) % #offer.suggestions + 1
    rest = rest_of(index)
    if rest then
      offer.index = index
      break
    end
  end
  if not rest then
    return forget()
  end
  local place = here()
  is_drawn = not menu.is_open() and ghost.show(rest, place.row, place.col)
  if not is_drawn then
    return hide()
  end
  local id = offer.suggestions[offer.index].id
  if id and not told[id] then
    told[id] = true
    feed_back('shown')
  end
end

--- Take an answer to the question that was asked at `place`.
---@param asked table
---@param place umbrella.Place
---@param result any
---@return boolean is_new Whether there is another offer now.
local function take(asked, place, result)
  -- No result is no news: what is shown may stay.
  if type(result) ~= 'table' or not server() or not vim.deep_equal(place, here()) then
    return false
  end
  local line = vim.api.nvim_get_current_line()
  local suggestions = {}
  for _, item in ipairs(result.items or result) do
    local one = suggestion.from_item(item, line, place.row, place.col, asked.offset_encoding)
    if one then
      suggestions[#suggestions + 1] = one
    end
  end
  forget()
  offer = {
    buffer = place.buffer,
    client_id = asked.id,
    suggestions = suggestions,
    index = 1,
    is_complete = false,
    is_chosen = false,
  }
  return true
end

--- Ask the server now.
---@param kind 1|2
---@param answered? fun() Called before another offer is drawn.
local function ask(kind, answered)
  local asked = server()
  if not asked then
    return
  end
  stop_asking()
  local place, number = here(), question
  local before = vim.api.nvim_get_current_line():sub(1, place.col)
  local params = {
    textDocument = vim.lsp.util.make_text_document_params(place.buffer),
    -- Neovim 0.10's own make_position_params takes bytes for units where characters are wide.
    position = { line = place.row, character = suggestion.length(before, asked.offset_encoding) },
    context = { triggerKind = kind },
  }
  local withdraw = client.request(asked, METHOD, params, function(err, result)
    if number ~= question then
      return
    end
    open = nil
    if not err and take(asked, place, result) then
      offer.is_complete = kind == INVOKED
      if answered then
        answered()
      end
      draw()
    end
  end, place.buffer)
  open = { kind = kind, withdraw = withdraw }
end

--- Ask after a pause, if the user wants to be offered something unasked.
local function ask_soon()
  if not config.options.auto_trigger then
    return
  end
  timer = timer or assert(vim.uv.new_timer())
  timer:start(
    config.options.debounce_ms,
    0,
    vim.schedule_wrap(function()
      if not menu.is_open() then
        ask(AUTOMATIC)
      end
    end)
  )
end

--- The text, the cursor or the mode may have changed.
function M.update()
  if not server() then
    M.leave()
    return
  end
  local place = here()
  if vim.deep_equal(place, seen) then
    return
  end
  seen, dismissed = place, nil
  stop_asking()
  draw()
  if not (rest and offer.is_chosen) then
    ask_soon()
  end
end

--- A menu has opened or closed.
function M.update_menu()
  if not server() then
    return
  elseif menu.is_open() then
    hide()
    stop_asking()
  elseif not vim.deep_equal(here(), dismissed) then
    draw()
    if not is_drawn then
      ask_soon()
    end
  end
end

--- The user has gone.
function M.leave()
  if offer or open or seen then
    stop_asking()
    forget()
    seen, dismissed = nil, nil
  end
end

--- The server has something better for a document. What the user has asked for is not given up for it, and what
--- the user has chosen is kept.
---@param uri string
function M.refresh(uri)
  local is_asked_for = rest and offer.is_complete
  if
    uri == vim.uri_from_bufnr(0)
    and (config.options.auto_trigger or is_asked_for)
    and not (rest and offer.is_chosen)
    and not (open and open.kind == INVOKED)
    and not menu.is_open()
    and not vim.deep_equal(here(), dismissed)
  then
    ask(is_asked_for and INVOKED or AUTOMATIC)
  end
end

---@return boolean
function M.is_visible()
  return is_drawn
end

--- Whether what the user sees is right yet: keys that come all at once run mappings before `update` is called.
---@return boolean
local function is_current()
  if is_drawn then
    draw()
  end
  return is_drawn
end

--- Put a part of what is left into the text, as one step of undo.
---@param part string
---@param replaced integer Bytes right of the cursor that go away.
local function insert(part, replaced)
  local place = here()
  local lines = vim.split(part, '\n', { plain = true })
  -- Ends the step before this one...
  vim.cmd('let &l:undolevels = &l:undolevels')
  vim.api.nvim_buf_set_text(place.buffer, place.row, place.col, place.row, place.col + replaced, lines)
  local col = (#lines == 1 and place.col or 0) + #lines[#lines]
  vim.api.nvim_win_set_cursor(0, { place.row + #lines, col })
  -- ... and this one.
  vim.api.nvim_feedkeys(vim.keycode('<C-g>u'), 'ni', false)
end

--- Accept what is drawn, or the part of it that `choose` returns.
---@param choose? fun(text: string): string
---@return boolean accepted
function M.accept(choose)
  if not is_current() then
    return false
  end
  local current, text = offer.suggestions[offer.index], rest.text
  local part = choose and choose(text) or text
  local asked = vim.lsp.get_client_by_id(offer.client_id)
  stop_asking()
  hide()
  if part ~= text then
    insert(part, suggestion.replaced_by(rest, part))
    local accepted = current.text:sub(1, #current.text - #text + #part):gsub('\n', current.eol)
    feed_back('partly', suggestion.length(accepted, 'utf-16'))
    seen = here()
    draw()
    return true
  end
  insert(text, #rest.replaced)
  forget()
  if asked and current.command then
    client.execute(asked, current.command.command, current.command.arguments)
  end
  return true
end

--- Take away what is drawn, until the text or the cursor changes.
---@return boolean dismissed
function M.dismiss()
  if not is_current() then
    return false
  end
  stop_asking()
  feed_back('dismissed')
  forget()
  seen = here()
  dismissed = seen
  return true
end

--- Ask for a suggestion, and for its alternatives.
---@return boolean asked
function M.trigger()
  if not server() then
    return false
  end
  seen, dismissed = here(), nil
  ask(INVOKED)
  return true
end

--- Choose the next of the offer's suggestions that agree with the text, or the one before.
---@param step 1|-1
local function choose_next(step)
  offer.is_chosen = true
  for _ = 1, #offer.suggestions do
    offer.index = (offer.index + step - 1) % #offer.suggestions + 1
    if rest_of(offer.index) then
      return
    end
  end
end

--- Show another suggestion for the same place.
---@param step 1|-1
---@return boolean done
function M.cycle(step)
  if not is_current() then
    return M.trigger()
  end
  if offer.is_complete then
    choose_next(step)
    draw()
    return true
  end
  local shown = rest.text
  ask(INVOKED, function()
    for index in ipairs(offer.suggestions) do
      local left = rest_of(index)
      if left and left.text == shown then
        offer.index = index
        choose_next(step)
        return
      end
    end
  end)
  return true
end

return M
