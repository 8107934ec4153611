"""LSP's values from and to ours, and what pygls leaves to do about messages that are none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from lsprotocol import types
from lsprotocol.validators import UINTEGER_MAX_VALUE
from pygls.exceptions import JsonRpcException
from pygls.protocol import LanguageServerProtocol

from umbrella_lsp.document import Change, Document, Position, PositionEncoding

if TYPE_CHECKING:
    from umbrella_lsp.outcome import Outcome, Selection

NO_VERSION = -1
ACCEPTED = "umbrella.accepted"
"""The command of every item: an editor runs it when the item was accepted whole."""


class _Server(Protocol):
    def forget(self, uri: str) -> None:
        """Act as if the document were not open."""
        ...


class UmbrellaProtocol(LanguageServerProtocol):
    """pygls' protocol, with an answer to requests that cannot be understood."""

    def structure_message(self, data: dict[str, Any]) -> Any:
        """Read one message; a request that is none is refused, as every request gets one answer."""
        if data.keys() == {"line", "character"}:
            _mend_position(data)
        method = data.get("method")
        if method == types.TEXT_DOCUMENT_INLINE_COMPLETION:
            _mend_trigger_kind(data)
        elif method == types.TEXT_DOCUMENT_DID_CHANGE:
            _mend_version(data)
        try:
            return super().structure_message(data)
        except JsonRpcException as error:
            if "id" in data and "method" in data:
                self._send_response(data["id"], error=error.to_response_error())
            elif method == types.TEXT_DOCUMENT_DID_CHANGE:
                # What cannot be read has changed the document all the same.
                cast("_Server", self._server).forget(_uri_of(data))
            raise


def _mend_position(data: dict[str, Any]) -> None:
    """Some clients say -1, or more than LSP has numbers for, and mean the beginning or the end."""
    for name, value in data.items():
        if isinstance(value, int):
            data[name] = min(max(value, 0), UINTEGER_MAX_VALUE)


def _text_document(data: dict[str, Any]) -> dict[str, Any]:
    """What a message says of the document it is about, or nothing."""
    params = data.get("params")
    found = cast("dict[str, Any]", params).get("textDocument") if isinstance(params, dict) else None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _mend_version(data: dict[str, Any]) -> None:
    """Some clients number no versions, which LSP does not allow here: `NO_VERSION` stands for none."""
    document = _text_document(data)
    if document.get("version") is None:
        document["version"] = NO_VERSION


def _uri_of(data: dict[str, Any]) -> str:
    uri = _text_document(data).get("uri")
    return uri if isinstance(uri, str) else ""


def _mend_trigger_kind(data: dict[str, Any]) -> None:
    """Older clients number the trigger kinds from 0. What is none of ours is taken for the automatic one."""
    params = data.get("params")
    context = cast("dict[str, Any]", params).get("context") if isinstance(params, dict) else None
    if isinstance(context, dict) and cast("dict[str, Any]", context).get("triggerKind") not in (1, 2):
        context["triggerKind"] = types.InlineCompletionTriggerKind.Automatic.value


def position(given: types.Position) -> Position:
    """A position of LSP's."""
    return Position(given.line, given.character)


def change(given: types.TextDocumentContentChangeEvent) -> Change:
    """A content change of LSP's."""
    if isinstance(given, types.TextDocumentContentChangePartial):
        return Change(given.text, position(given.range.start), position(given.range.end))
    return Change(given.text)


def selection(
    document: Document, selected: types.SelectedCompletionInfo | None, encoding: PositionEncoding
) -> Selection | None:
    """What an editor's own list has selected, in offsets of `document`."""
    if selected is None:
        return None
    from umbrella_lsp.outcome import Selection

    where = (selected.range.start, selected.range.end)
    start, end = sorted(document.offset_at(position(place), encoding) for place in where)
    return Selection(start, end, selected.text)


def items(
    outcome: Outcome, encoding: PositionEncoding, about: dict[str, object]
) -> types.InlineCompletionList:
    """The items of `outcome`, each with what is to be known `about` the answer as its command's argument.

    No items mean that ghost text should go away.
    """
    command = types.Command("Suggestion accepted", ACCEPTED, arguments=[about])
    made: list[types.InlineCompletionItem] = []
    for suggestion in outcome.suggestions:
        start, end = (outcome.document.position_at(at, encoding) for at in (suggestion.start, suggestion.end))
        where = types.Range(
            types.Position(start.line, start.character), types.Position(end.line, end.character)
        )
        made.append(types.InlineCompletionItem(suggestion.text, range=where, command=command))
    return types.InlineCompletionList(made)


def accepted_id(arguments: Sequence[object] | None) -> str:
    """The answer that `ACCEPTED` was run for, or ''."""
    first = arguments[0] if arguments else None
    found = cast("dict[str, object]", first).get("id") if isinstance(first, dict) else None
    return found if isinstance(found, str) else ""
