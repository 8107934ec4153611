"""What the engine is shown of a document and its workspace. Pure: the same arguments, the same context.

`build` puts it together and decides what of it stays from one key to the next; `windows` cuts the cursor's
own surroundings, `definitions` finds what names refer to, and `ranges` what was edited, viewed or is open.
None of it reads a clock, a file or a syntax tree: it is handed facts, and it does a bounded amount of work.
"""

from umbrella_lsp.context.build import CompletionContext, Shown, build_context
from umbrella_lsp.context.segments import LeftOut
from umbrella_lsp.context.windows import known_reach

__all__ = ["CompletionContext", "LeftOut", "Shown", "build_context", "known_reach"]
