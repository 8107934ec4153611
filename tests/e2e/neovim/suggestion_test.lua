-- What the plugin makes of an item of an answer, without windows, buffers and servers: run by `nvim -l`.

local suggestion = require('umbrella.suggestion')

local EMOJI = '😀' -- Two units of UTF-16, four bytes.

local function item(text, first, last)
  local range = first and { start = { line = 0, character = first }, ['end'] = { line = 0, character = last } }
  return { insertText = text, range = range }
end

--- A suggestion at the end of `before`, where `after` stands right of the cursor.
local function at(before, after, sent)
  return assert(suggestion.from_item(sent, before .. after, 0, #before, 'utf-16'))
end

return {
  ['columns count in the units of the protocol'] = function(same)
    local line = 'a' .. EMOJI .. 'é' .. 'b'
    for encoding, column in pairs({ ['utf-8'] = 7, ['utf-16'] = 4, ['utf-32'] = 3 }) do
      same(suggestion.byte_column(line, column, encoding), 7)
      same(suggestion.length(line:sub(1, 7), encoding), column)
    end
  end,

  ['a range is of units, what it replaces is of bytes'] = function(same)
    local one = at('x' .. EMOJI, EMOJI .. 'y)', item('z', 3, 6))
    same({ one.col, one.replaced, one.tail }, { 5, EMOJI .. 'y', ')' })
  end,

  ['what is not at the cursor is no suggestion'] = function(same)
    same(suggestion.from_item(item('z', 2, 3), 'abc', 0, 1, 'utf-16'), nil)
    same(suggestion.from_item(item('z', 0, 0), 'abc', 1, 0, 'utf-16'), nil)
    same(suggestion.from_item({ insertText = { value = 'z' } }, 'abc', 0, 1, 'utf-16'), nil)
    same(suggestion.from_item(item('a\0b'), 'abc', 0, 1, 'utf-16'), nil)
  end,

  ['line endings of DOS are lines, and known for the count'] = function(same)
    local one = at('', '', item('a\r\nb\rc'))
    same({ one.text, one.eol }, { 'a\nb\nc', '\r\n' })
  end,

  ['what is typed along is no longer left'] = function(same)
    local one = at('x = ', '', item(EMOJI .. 'b\nc'))
    same(suggestion.rest(one, { 'x = ' .. EMOJI }, 0, 8), { text = 'b\nc', replaced = '' })
    same(suggestion.rest(one, { 'x = ' .. EMOJI .. 'b', '' }, 1, 0), { text = 'c', replaced = '' })
    same(suggestion.rest(one, { 'x = z' }, 0, 5), nil)
    same(suggestion.rest(one, { 'y = ' .. EMOJI }, 0, 8), nil)
  end,

  ['a closer that the editor adds is written over'] = function(same)
    local one = at('f', '', item('(a, "b")\nc'))
    same(suggestion.rest(one, { 'f()' }, 0, 2), { text = 'a, "b")\nc', replaced = ')' })
    same(suggestion.rest(one, { 'f(x' }, 0, 2), nil)
    -- One that the suggestion does not have stays a stranger.
    same(suggestion.rest(one, { 'f(]' }, 0, 2), nil)
  end,

  ['it is drawn around what stands there'] = function(same)
    local layout = suggestion.layout({ text = 'a, b):\n  c', replaced = ')' })
    local inserts = { { offset = 0, text = 'a, b' }, { offset = 1, text = ':' } }
    same(layout, { inserts = inserts, struck = 0, lines = { '  c' } })
    layout = suggestion.layout({ text = 'abc', replaced = EMOJI })
    same(layout, { inserts = { { offset = 0, text = 'abc' } }, struck = 4, lines = {} })
  end,

  ['a part takes the place of what it holds'] = function(same)
    local rest = { text = 'a)' .. EMOJI .. 'b]\nc', replaced = ')' .. EMOJI .. ']' }
    same(suggestion.replaced_by(rest, 'a'), 0)
    same(suggestion.replaced_by(rest, 'a)'), 1)
    same(suggestion.replaced_by(rest, 'a)' .. EMOJI), 5)
    same(suggestion.replaced_by(rest, rest.text), 6)
  end,

  ['words and lines join to the whole'] = function(same)
    local text = '  größe = f(x)\n\n\ty.z\n'
    for part, expected in pairs({
      next_word = { '  größe', ' =', ' f', '(', 'x', ')', '\n\n\ty', '.', 'z', '\n' },
      next_line = { '  größe = f(x)', '\n', '\n\ty.z', '\n' },
    }) do
      local parts, left = {}, text
      while left ~= '' do
        parts[#parts + 1] = suggestion[part](left)
        left = left:sub(#parts[#parts] + 1)
      end
      same(parts, expected)
    end
  end,
}
