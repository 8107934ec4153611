"""LSP's values from and to ours, and what pygls leaves to do about messages that are none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, get_args

from lsprotocol import types
from lsprotocol.validators import UINTEGER_MAX_VALUE
from pygls.exceptions import JsonRpcException
from pygls.protocol import LanguageServerProtocol
from pygls.protocol.json_rpc import JsonRPCNotification

from umbrella_lsp.acceptance.watcher import Said
from umbrella_lsp.document import Change, Document, Position, PositionEncoding, path_of

if TYPE_CHECKING:
    from pygls.workspace import Workspace

    from umbrella_lsp.outcome import Outcome, Selection
    from umbrella_lsp.status import Status

NO_VERSION = -1
ACCEPTED = "umbrella.accepted"
"""The command of every item: an editor runs it when the item was accepted whole."""
TELL_STATUS = "umbrella.server.status"
TELL_STATISTICS = "umbrella.server.statistics"
UNLOAD = "umbrella.server.unload"
FEEDBACK = "umbrella/feedback"
"""``{id, event, length}``: what became of the offer `id`, which is in its command's argument."""
DID_SHOW = "textDocument/didShowCompletion"
"""``{item}``: what GitHub Copilot's language server is told, and means the same."""
DID_PARTIALLY_ACCEPT = "textDocument/didPartiallyAcceptCompletion"
"""``{item, acceptedLength}``: likewise."""
FEEDBACKS = (FEEDBACK, DID_SHOW, DID_PARTIALLY_ACCEPT)


@dataclass(frozen=True, slots=True)
class Feedback:
    """What an editor says became of an offer."""

    id: str
    event: Said
    units: int | None = None
    """UTF-16 units from the item's beginning that were accepted; None for all of it."""


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
        elif method == types.TEXT_DOCUMENT_COMPLETION:
            _drop_unknown_context(data)
        elif method == types.TEXT_DOCUMENT_DID_CHANGE:
            _mend_version(data)
        elif method in FEEDBACKS and "id" not in data:
            # As it is: pygls makes named tuples of what it does not know, which not every key can be in.
            return JsonRPCNotification(str(method), str(data.get("jsonrpc")), data.get("params"))
        try:
            return super().structure_message(data)
        except JsonRpcException as error:
            if "id" in data and "method" in data:
                self._send_response(data["id"], error=error.to_response_error())
            elif method == types.TEXT_DOCUMENT_DID_CHANGE:
                # What cannot be read has changed the document all the same.
                cast("_Server", self._server).forget(_uri_of(data))
            elif "id" in data and "error" not in data:
                # An answer of the client's, which somebody waits for.
                refusal = {"code": error.code, "message": error.message}
                return super().structure_message({"jsonrpc": "2.0", "id": data["id"], "error": refusal})
            raise


def _mend_position(data: dict[str, Any]) -> None:
    """Some clients say -1, or more than LSP has numbers for, and mean the beginning or the end."""
    for name, value in data.items():
        if isinstance(value, int):
            data[name] = min(max(value, 0), UINTEGER_MAX_VALUE)


def _member(value: object, name: str) -> object:
    """A member of a JSON object; None if there is none, or no object."""
    return cast("dict[str, object]", value).get(name) if isinstance(value, dict) else None


def _text_document(data: dict[str, Any]) -> dict[str, Any]:
    """What a message says of the document it is about, or nothing."""
    found = _member(data.get("params"), "textDocument")
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
    context = _member(data.get("params"), "context")
    if isinstance(context, dict) and cast("dict[str, Any]", context).get("triggerKind") not in (1, 2):
        context["triggerKind"] = types.InlineCompletionTriggerKind.Automatic.value


def _drop_unknown_context(data: dict[str, Any]) -> None:
    """A completion list may be asked for without a context, so one that is none is no reason to refuse."""
    if _member(_member(data.get("params"), "context"), "triggerKind") not in (1, 2, 3):
        cast("dict[str, Any]", data.get("params") or {}).pop("context", None)


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


def roots(workspace: Workspace) -> tuple[Path, ...]:
    """The directories that the client has open."""
    folders = [folder.uri for folder in workspace.folders.values()]
    if not folders and workspace.root_uri:
        folders = [workspace.root_uri]
    return tuple(Path(path_of(uri)) for uri in folders if uri.startswith("file:"))


def items(
    outcome: Outcome, encoding: PositionEncoding, about: dict[str, object]
) -> types.InlineCompletionList:
    """The items of `outcome`, each with what is to be known `about` the answer as its command's argument.

    No items mean that ghost text should go away.
    """
    command = accepted_command(about)
    made: list[types.InlineCompletionItem] = []
    for suggestion in outcome.suggestions:
        where = range_of(outcome.document, suggestion.start, suggestion.end, encoding)
        made.append(types.InlineCompletionItem(suggestion.text, range=where, command=command))
    return types.InlineCompletionList(made)


def range_of(document: Document, start: int, end: int, encoding: PositionEncoding) -> types.Range:
    """What lies between two offsets of `document`."""
    places = (document.position_at(at, encoding) for at in (start, end))
    return types.Range(*(types.Position(place.line, place.character) for place in places))


def accepted_command(about: dict[str, object]) -> types.Command:
    """What an editor runs when it has inserted an item, with what is to be known `about` the answer."""
    return types.Command("Suggestion accepted", ACCEPTED, arguments=[about])


def accepted_id(arguments: object) -> str:
    """The answer that `ACCEPTED` was run for, or ''."""
    first = (
        cast("Sequence[object]", arguments)[0] if isinstance(arguments, list | tuple) and arguments else None
    )
    found = _member(first, "id")
    return found if isinstance(found, str) else ""


def feedback(method: str, params: object) -> Feedback | None:
    """What one of `FEEDBACKS` says; None if it makes no sense."""
    item = _member(params, "item")
    if method == FEEDBACK:
        name, event, length = (_member(params, key) for key in ("id", "event", "length"))
    else:
        name = accepted_id(_member(_member(item, "command"), "arguments"))
        event = "shown" if method == DID_SHOW else "partly"
        length = _member(params, "acceptedLength")
    units = length if isinstance(length, int) and not isinstance(length, bool) else None
    if not isinstance(name, str) or event not in get_args(Said) or (event == "partly" and not units):
        return None
    return Feedback(name, cast("Said", event), units if event in ("accepted", "partly") else None)


def takes_markdown(capabilities: types.ClientCapabilities) -> bool:
    """Whether the client shows markdown beside an item of its completion list."""
    document = capabilities.text_document
    item = document.completion.completion_item if document and document.completion else None
    return types.MarkupKind.Markdown in ((item.documentation_format if item else None) or ())


def status(given: Status) -> dict[str, object]:
    """A status, as a client is told it."""
    return {**asdict(given), "languages": list(given.languages)}
