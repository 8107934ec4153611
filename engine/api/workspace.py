"""What of a ``POST /workspace`` is taken."""

from __future__ import annotations

from dataclasses import replace

from engine.protocol import WorkspacePush

MAX_DOCUMENT_BYTES = 1_000_000


def within_limits(push: WorkspacePush) -> WorkspacePush:
    """`push` without the documents larger than `MAX_DOCUMENT_BYTES`, whose older text is out of date."""
    too_large = {d.path for d in push.documents if len(d.text.encode()) > MAX_DOCUMENT_BYTES}
    taken = tuple(document for document in push.documents if document.path not in too_large)
    return replace(push, documents=taken, removed=(*push.removed, *too_large))
