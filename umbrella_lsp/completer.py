"""The product: a document and an offset in, a suggestion out. Knows no LSP types and speaks to no user.

Suggestions are remembered with what they were made for (`memory`), and texts go on coming after the
request that began them was answered or superseded (`ongoing`, `generation`). So a key costs the engine
something only if it leads away from all that is known: what is typed along is answered from memory, and a
text on its way is kept for as long as it may yet be what is typed.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from umbrella_lsp.activity import Activity
from umbrella_lsp.asking import MAX_REMEMBERED, Asker
from umbrella_lsp.document import Document
from umbrella_lsp.exclude import is_secret
from umbrella_lsp.fit.stop import is_silent_here
from umbrella_lsp.generation import Engine, Generation, Syntax
from umbrella_lsp.index import SymbolIndex
from umbrella_lsp.memory import Anchor, Left, Memory, Tier
from umbrella_lsp.ongoing import Ongoing, Shown
from umbrella_lsp.outcome import Answer, Asked, Outcome, Reason, Selection
from umbrella_lsp.pace import Cadence, Speedometer, Worth, pause_ms
from umbrella_lsp.settings import Settings

MAX_DOCUMENT_CHARS = 10_000_000
NEXT_PAUSE_S = 0.15
"""What follows a suggestion is asked for once it has been looked at for so long: most keys come sooner."""
USUAL_CHARACTERS = 20
"""Of a suggestion of which nothing is known yet."""
USUAL_RATE = 0.3


class Completer:
    """Completes documents of one workspace. Used from one event loop."""

    def __init__(
        self,
        engine: Engine,
        syntax: Syntax,
        *,
        index: SymbolIndex | None = None,
        activity: Activity | None = None,
        roots: tuple[Path, ...] = (),
        settings: Settings | None = None,
        speed: Speedometer | None = None,
        rate: Callable[[], float] = lambda: USUAL_RATE,
        better: Callable[[str], None] = lambda _: None,
        session: str = "",
        speculative: bool = True,
    ) -> None:
        """`rate` tells the share of suggestions that is accepted; `better` is told the URI of a document for
        which there is more by now than its last answer said; `session` names one slot of the engine for all
        documents, and '' gives each its own.
        """
        self.speed = speed or Speedometer()
        self._memory = Memory()
        self._asker = Asker(
            engine,
            syntax,
            self._memory,
            SymbolIndex() if index is None else index,
            Activity() if activity is None else activity,
            session=session,
            speculative=speculative,
            ended=self._measure,
        )
        self._rate = rate
        self._better = better
        self._cadence = Cadence()
        self._models_languages: tuple[str, ...] = ()
        self._ongoing: OrderedDict[str, Ongoing] = OrderedDict()
        self.configure(settings or Settings(), roots)

    @property
    def settings(self) -> Settings:
        """What the user has chosen."""
        return self._asker.settings

    @property
    def languages(self) -> tuple[str, ...]:
        """Ids of the languages in which an editor is given suggestions by itself; () is any."""
        chosen = self.settings.languages or self._models_languages
        disabled = self.settings.disabled_languages
        return tuple(language for language in chosen if language not in disabled) or chosen

    def told_languages(self, languages: tuple[str, ...]) -> None:
        """The engine says that its models were made for these, () is any."""
        self._models_languages = languages

    def configure(self, settings: Settings, roots: tuple[Path, ...]) -> None:
        """Use other settings and folders from the next request on."""
        if (settings, roots) != (self._asker.settings, self._asker.roots):
            self._asker.settings, self._asker.roots = settings, roots
            self.close()
            self._memory.clear()

    def changed(self, document: Document) -> None:
        """A document has come to another version: streams that it contradicts are closed."""
        self._cadence.key(time.perf_counter() * 1000)
        if document.uri in self._ongoing:
            self._ongoing[document.uri].changed(document)

    def closed(self, uri: str) -> None:
        """A document was closed."""
        self._asker.forget(uri)
        if uri in self._ongoing:
            self._ongoing.pop(uri).cancel()

    def close(self) -> None:
        """Close every stream."""
        for uri in list(self._ongoing):
            self.closed(uri)

    async def complete(
        self,
        document: Document,
        offset: int,
        selection: Selection | None = None,
        *,
        invoked: bool = False,
        latest: Callable[[], Document | None] | None = None,
    ) -> Outcome:
        """Suggest what comes at `offset`, extending `selection` where there is one.

        `invoked` says that somebody asked, rather than an editor by itself while they typed: they get
        several texts, longer ones, and all of them at once. `latest` tells the document's newest version,
        which the answer is made to fit or else withheld. What a cancel leaves running is closed soon unless
        a later request can use it. Raises EngineUnavailable and RequestError.
        """
        started = time.perf_counter()
        refusal = self._refusal(document, invoked)
        if refusal:
            return Outcome(document, refusal)
        latest = latest or (lambda: document)
        asked = Asked(document, offset, invoked, latest)
        if selection is None:
            answer = await self._answer(asked)
            self._follow_up(answer)
            return answer.outcome(_since(started))
        extended = document.replaced(selection.start, selection.end, selection.text)
        end = selection.start + len(selection.text)
        still = Asked(extended, end, invoked, lambda: None if asked.has_moved_on else extended)
        return (await self._answer(still)).outcome(_since(started), document, selection)

    def _refusal(self, document: Document, invoked: bool) -> Reason | None:
        if not self.settings.enabled:
            return "disabled"
        if not self._is_language_wanted(document.language, invoked):
            return "other language"
        if is_secret(document.path, self.settings.secret_files):
            return "secret"
        return "too large" if len(document.content) > MAX_DOCUMENT_CHARS else None

    def _is_language_wanted(self, language: str, invoked: bool) -> bool:
        """What the settings say goes. Else, who asks for it gets what the model makes of any language."""
        if language in self.settings.disabled_languages:
            return False
        known = self.settings.languages or (() if invoked else self._models_languages)
        return not known or language in known

    async def _answer(self, asked: Asked) -> Answer:
        """From memory, from a text that is on its way, or from a new one, whichever comes first."""
        now = asked.now()
        if now is None:
            return Answer("outdated", asked.document, asked.offset)
        asked, document, offset = now, now.document, now.offset
        ongoing = self._ongoing_of(document.uri)
        tier: Tier = "draft" if self.speed.asks_draft_first and not asked.invoked else "target"
        if not asked.invoked:
            known = self._known(ongoing, document, offset)
            if known is not None:
                return known
            kept = ongoing.agreeing(tier, document, offset)
            if kept is not None:
                answer = Answer("nothing", document, offset, source="kept")
                answer = await self._read(ongoing, kept, asked, answer)
                if answer is not None:
                    return answer
        return await self._ask(ongoing, asked, tier)

    async def _ask(self, ongoing: Ongoing, asked: Asked, tier: Tier) -> Answer:
        document, offset = asked.document, asked.offset
        started = time.perf_counter()
        has_accepted = ongoing.shown is not None and ongoing.shown.is_used_up(document, offset)
        place = await self._asker.place(document, offset, longer=asked.invoked or has_accepted)
        answer = Answer("inside a word", document, offset, context_ms=_since(started))
        if not self._is_wanted(ongoing, asked):
            return replace(answer, reason="outdated")
        if is_silent_here(place.context, asked.invoked):
            return answer
        if tier == "target" and not asked.invoked:
            pause = pause_ms(self.speed.speed, self._worth(), self._cadence)
            if pause is None:
                return replace(answer, reason="not now")
            began = time.perf_counter()
            await asyncio.sleep(pause / 1000)
            answer = replace(answer, waited_ms=_since(began))
            if not self._is_wanted(ongoing, asked):
                return replace(answer, reason="outdated")
        texts = self.settings.alternatives if asked.invoked else 1
        generation = ongoing.begin(tier, self._asker.generate(place, tier, texts=texts))
        answer = replace(answer, reason="nothing", source="new")
        return await self._read(ongoing, generation, asked, answer) or replace(answer, reason="outdated")

    def _is_wanted(self, ongoing: Ongoing, asked: Asked) -> bool:
        """Whether nothing has happened since that should be waited for, or that has closed the document."""
        return not asked.has_moved_on and self._ongoing.get(asked.document.uri) is ongoing

    async def _read(
        self, ongoing: Ongoing, generation: Generation, asked: Asked, answer: Answer
    ) -> Answer | None:
        """`answer` with what `generation` brings for the cursor; None if it comes to say something else."""
        waited_ms = answer.waited_ms
        while True:
            now = asked.now()
            if now is None:
                ongoing.abandoned(generation)
                return replace(answer, reason="outdated", waited_ms=waited_ms)
            document, offset = now.document, now.offset
            lefts, is_unsure = self._choose(ongoing, document, offset, asked.invoked)
            if generation.over or (lefts and not asked.invoked):
                break
            if not generation.agrees(document, offset):
                generation.cancel()
                if not asked.has_moved_on:
                    return None
                break
            began = time.perf_counter()
            try:
                await generation.news()
            except asyncio.CancelledError:
                ongoing.abandoned(generation)
                raise
            waited_ms += _since(began)
        if generation.error is not None and not lefts:
            raise generation.error
        reason: Reason = "suggested" if lefts else "unsure" if is_unsure else answer.reason
        if not lefts and (asked.has_moved_on or not generation.entry.is_final):
            reason = "outdated"
        return replace(
            answer,
            reason=reason,
            document=document,
            offset=offset,
            lefts=lefts,
            generation=generation,
            waited_ms=waited_ms,
        )

    def _known(self, ongoing: Ongoing, document: Document, offset: int) -> Answer | None:
        """The answer, if it takes nothing but looking."""
        lefts, is_unsure = self._choose(ongoing, document, offset, invoked=False)
        if lefts:
            return Answer("suggested", document, offset, lefts, "cache")
        if is_unsure:
            return Answer("unsure", document, offset, source="cache")
        if self._memory.is_empty_at(document, offset):
            return Answer("nothing", document, offset, source="cache")
        return None

    def _choose(
        self, ongoing: Ongoing, document: Document, offset: int, invoked: bool
    ) -> tuple[tuple[Left, ...], bool]:
        """What may be shown at `offset`, the best first, and whether anything else is not likely enough.

        What the user has begun to accept goes on as it was shown, whatever else is known by now.
        """
        least = math.log(self.settings.min_confidence) if self.settings.min_confidence else -math.inf
        lefts = list(self._memory.left(document, offset))
        sure = [left for left in lefts if invoked or left.logprob >= least]
        shown = ongoing.shown.rest(document, offset) if ongoing.shown else None
        if shown is not None and shown.is_begun and shown.fitted.text:
            sure = [left for left in lefts if left.fitted.text.startswith(shown.fitted.text)] or sure
        if not invoked:
            return tuple(sure[:1]), bool(lefts)
        distinct = {left.fitted: left for left in reversed(sure)}
        best_first = [left for left in sure if distinct[left.fitted] is left]
        return tuple(best_first[: self.settings.alternatives]), False

    def _follow_up(self, answer: Answer) -> None:
        """Have done, if the user pauses, what they will want next."""
        if answer.reason not in ("suggested", "nothing", "unsure"):
            return
        ongoing = self._ongoing_of(answer.document.uri)
        best = answer.lefts[0] if answer.lefts else None
        if best is not None:
            rest = ongoing.shown.rest(answer.document, answer.offset) if ongoing.shown else None
            goes_on = rest is not None and rest.is_begun and best.fitted.text.startswith(rest.fitted.text)
            ongoing.shown = Shown(Anchor.at(answer.document, answer.offset), best.fitted, goes_on)
        if self.speed.asks_draft_first and (best is None or best.entry.tier == "draft"):
            ongoing.put_off(self._confirm(ongoing, answer, best))
        elif best is not None:
            ongoing.put_off(self._prefetch(ongoing, answer, best))

    async def _confirm(self, ongoing: Ongoing, answer: Answer, shown: Left | None) -> None:
        """Ask the target what only the draft was asked, once the user is likely to see the answer."""
        document, offset = answer.document, answer.offset
        generation = ongoing.agreeing("target", document, offset)
        if generation is None:
            pause = pause_ms(self.speed.speed, self._worth(shown), self._cadence)
            if pause is None or self._has_asked_target(document, offset):
                return
            await asyncio.sleep(pause / 1000)
            place = await self._asker.place(document, offset)
            generation = ongoing.begin("target", self._asker.generate(place))
        while True:
            lefts, _ = self._choose(ongoing, document, offset, invoked=False)
            is_better = bool(lefts) and lefts[0].entry is generation.entry
            if is_better or generation.over:
                break
            await generation.news()
        if is_better:
            self._better(document.uri)

    def _has_asked_target(self, document: Document, offset: int) -> bool:
        """Whether it is known what the target says there, be it nothing."""
        said = any(left.entry.tier == "target" for left in self._memory.left(document, offset))
        return said or self._memory.is_empty_at(document, offset)

    async def _prefetch(self, ongoing: Ongoing, answer: Answer, best: Left) -> None:
        """Say when there is more of `best` than was shown; then ask what comes after it, for its accept."""
        await asyncio.sleep(NEXT_PAUSE_S)
        document, offset = answer.document, answer.offset
        shown = best.fitted.text
        while True:
            lefts, _ = self._choose(ongoing, document, offset, invoked=False)
            if lefts and lefts[0].fitted.text != shown and lefts[0].fitted.text.startswith(shown):
                shown = lefts[0].fitted.text
                self._better(document.uri)
            if best.entry.is_final:
                break
            making = ongoing.making(best.entry)
            if making is None:
                return
            await making.news()
        if not lefts:
            return
        text = lefts[0].fitted.text.replace("\n", document.line_ending)
        accepted = document.replaced(offset, offset + lefts[0].fitted.replaces, text)
        end = offset + len(text)
        if ongoing.agreeing("next", accepted, end) or self._known(ongoing, accepted, end):
            return
        place = await self._asker.place(accepted, end, longer=True, is_real=False)
        ongoing.begin("next", self._asker.generate(place, priority="prefetch"))

    def _worth(self, shown: Left | None = None) -> Worth:
        """Of asking the target where the draft says `shown`."""
        return Worth(self._rate(), len(shown.fitted.text) if shown else USUAL_CHARACTERS)

    def _measure(self, generation: Generation) -> None:
        """Learn from what has come to its end."""
        self._asker.learn(generation)
        if generation.entry.tier == "target":
            self.speed.saw_passes(generation.tokens.target_passes - 1, generation.timings.decode_ms)

    def _ongoing_of(self, uri: str) -> Ongoing:
        ongoing = self._ongoing.setdefault(uri, Ongoing())
        self._ongoing.move_to_end(uri)
        if len(self._ongoing) > MAX_REMEMBERED:
            _, oldest = self._ongoing.popitem(last=False)
            oldest.cancel()
        return ongoing


def _since(started: float) -> float:
    """Milliseconds since `started`."""
    return (time.perf_counter() - started) * 1000
