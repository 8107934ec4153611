-- What an inline completion item means at the cursor: what is left of it, and in which parts it can be taken.
-- Pure: it knows text, bytes and rows, but no buffers, windows or servers. Rows and columns count from 0,
-- columns in bytes.

local M = {}

---@class umbrella.Suggestion
---@field row integer Where its text begins.
---@field col integer
---@field text string Its whole text, with "\n" between lines.
---@field eol string What stands between lines in the text as it was sent.
---@field head string What stands before it in its first line.
---@field replaced string What it takes the place of, from the cursor on.
---@field tail string What stands after that in the line.
---@field id? string What the server calls the answer that it is of.
---@field command? table To be run by the server when all of it was accepted.

---@class umbrella.Rest
---@field text string What is left to insert at the cursor.
---@field replaced string What goes away right of the cursor with the last of it.

---@class umbrella.Insert A piece of the first line as it is drawn.
---@field offset integer Bytes right of the cursor.
---@field text string

---@class umbrella.Layout
---@field inserts umbrella.Insert[]
---@field struck integer Bytes right of the cursor that will go away and cannot be drawn around.
---@field lines string[] The lines below.

-- A closer may have been added by the editor as its opener was typed.
local CLOSERS = '^[%)%]}>"\'`]*$'
local CHARACTER = '[%z\1-\127\194-\244][\128-\191]*'

---@param text string
---@return string first
---@return integer? newline Where the first line ends.
local function first_line(text)
  local newline = text:find('\n', 1, true)
  return newline and text:sub(1, newline - 1) or text, newline
end

--- Where each character of `inner` stands in `outer`, as far right as it can; nil if they do not stand there in
--- this order. Positions are those of a character's first byte, from 1.
---@param inner string
---@param outer string
---@return integer[]?
local function align(inner, outer)
  local starts, characters = {}, {}
  for start, character in outer:gmatch('()(' .. CHARACTER .. ')') do
    starts[#starts + 1] = start
    characters[#characters + 1] = character
  end
  local wanted = {}
  for character in inner:gmatch(CHARACTER) do
    wanted[#wanted + 1] = character
  end
  local found, at = {}, #characters
  for index = #wanted, 1, -1 do
    while at > 0 and characters[at] ~= wanted[index] do
      at = at - 1
    end
    if at == 0 then
      return nil
    end
    found[index] = starts[at]
    at = at - 1
  end
  return found
end

--- The byte that a protocol's column means.
---@param line string
---@param character integer
---@param encoding 'utf-8'|'utf-16'|'utf-32'
---@return integer
function M.byte_column(line, character, encoding)
  if encoding == 'utf-8' then
    return math.min(character, #line)
  end
  local units = 0
  for start, one in line:gmatch('()(' .. CHARACTER .. ')') do
    if units >= character then
      return start - 1
    end
    units = units + ((encoding == 'utf-16' and #one == 4) and 2 or 1)
  end
  return #line
end

--- How long a text is as a protocol counts.
---@param text string
---@param encoding 'utf-8'|'utf-16'|'utf-32'
---@return integer
function M.length(text, encoding)
  if encoding == 'utf-8' then
    return #text
  end
  local units = 0
  for one in text:gmatch(CHARACTER) do
    units = units + ((encoding == 'utf-16' and #one == 4) and 2 or 1)
  end
  return units
end

--- The suggestion that an item of an answer is, or nil where it is none that can be shown at the cursor.
---@param item table As the protocol has it.
---@param line string The line that the cursor is in.
---@param row integer
---@param col integer
---@param encoding 'utf-8'|'utf-16'|'utf-32'
---@return umbrella.Suggestion?
function M.from_item(item, line, row, col, encoding)
  local sent = item.insertText
  -- Neovim cannot measure a text with a NUL.
  if type(sent) ~= 'string' or sent:find('%z') then
    return nil
  end
  local start, stop = col, col
  if type(item.range) == 'table' then
    local from, to = item.range.start, item.range['end']
    if from.line ~= row or to.line ~= row then
      return nil
    end
    start = M.byte_column(line, from.character, encoding)
    stop = M.byte_column(line, to.character, encoding)
    if start > col or stop < col then
      return nil
    end
  end
  local command = type(item.command) == 'table' and item.command or nil
  local about = command and type(command.arguments) == 'table' and command.arguments[1]
  return {
    row = row,
    col = start,
    text = (sent:gsub('\r\n?', '\n')),
    eol = sent:match('\r\n') or '\n',
    head = line:sub(1, start),
    replaced = line:sub(col + 1, stop),
    tail = line:sub(stop + 1),
    id = type(about) == 'table' and about.id or nil,
    command = command,
  }
end

--- What is left of a suggestion, or nil where the text does not agree with it any more.
---@param suggestion umbrella.Suggestion
---@param lines string[] The lines from its row to the cursor's.
---@param row integer The cursor's.
---@param col integer
---@return umbrella.Rest?
function M.rest(suggestion, lines, row, col)
  local last = lines[#lines]
  if
    #lines ~= row - suggestion.row + 1
    or lines[1]:sub(1, suggestion.col) ~= suggestion.head
    or (row == suggestion.row and col < suggestion.col)
  then
    return nil
  end
  local written = vim.list_slice(lines)
  written[#written] = last:sub(1, col)
  written[1] = written[1]:sub(suggestion.col + 1)
  local typed = table.concat(written, '\n')
  if not vim.startswith(suggestion.text, typed) then
    return nil
  end
  local text, after = suggestion.text:sub(#typed + 1), last:sub(col + 1)
  if not vim.endswith(after, suggestion.tail) then
    return nil
  end
  local replaced = after:sub(1, #after - #suggestion.tail)
  local added = vim.endswith(replaced, suggestion.replaced)
    and replaced:sub(1, #replaced - #suggestion.replaced):find(CLOSERS)
  local taken = vim.endswith(suggestion.replaced, replaced)
  local is_known = replaced == suggestion.replaced
    or ((added or taken) and align(replaced, (first_line(text))) ~= nil)
  return is_known and { text = text, replaced = replaced } or nil
end

--- How what is left is drawn: around what stands right of the cursor if that is part of it, else before it.
---@param rest umbrella.Rest
---@return umbrella.Layout
function M.layout(rest)
  local lines = vim.split(rest.text, '\n', { plain = true })
  local first = table.remove(lines, 1)
  local places = align(rest.replaced, first)
  if not places then
    return { inserts = { { offset = 0, text = first } }, struck = #rest.replaced, lines = lines }
  end
  local inserts, offset, at = {}, 0, 1
  for index, character in ipairs(vim.fn.split(rest.replaced, [[\zs]])) do
    if places[index] > at then
      inserts[#inserts + 1] = { offset = offset, text = first:sub(at, places[index] - 1) }
    end
    offset, at = offset + #character, places[index] + #character
  end
  if at <= #first or (#inserts == 0 and #lines > 0) then
    inserts[#inserts + 1] = { offset = offset, text = first:sub(at) }
  end
  return { inserts = inserts, struck = 0, lines = lines }
end

--- How many bytes right of the cursor go away as `part`, the beginning of what is left, is accepted.
---@param rest umbrella.Rest
---@param part string
---@return integer
function M.replaced_by(rest, part)
  local first = first_line(rest.text)
  if #part >= #first then
    return #rest.replaced
  end
  local places = align(rest.replaced, first) or {}
  local bytes = 0
  for index, character in ipairs(vim.fn.split(rest.replaced, [[\zs]])) do
    if not places[index] or places[index] > #part then
      break
    end
    bytes = bytes + #character
  end
  return bytes
end

--- The next word, with the blanks and line ends before it; what a word is made of, the buffer's 'iskeyword' says.
---@param text string
---@return string
function M.next_word(text)
  -- Not \S, which a line end is, too.
  local word = vim.fn.matchstr(text, [=[^\_s*\%(\k\+\|\%(\k\@![^[:space:]]\)\+\)]=])
  return word ~= '' and word or text
end

--- The rest of the line, or the next one where this one has ended.
---@param text string
---@return string
function M.next_line(text)
  local stop = text:find('\n', 2, true)
  return stop and text:sub(1, stop - 1) or text
end

return M
