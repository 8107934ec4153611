"""Trees grown best guess first, by what guesses of each kind have lately been worth.

Every drafter adds to one tree. Its evidence becomes a probability by its own calibration, and the planner
decides, from these and from what passes take, which drafter is asked, how deep, and how much of the tree is
verified.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from engine.costs import CostTable
from engine.draft.base import (
    BeforeLayer,
    Drafter,
    DraftMemory,
    DraftSession,
    Opening,
    Outlook,
    TreeLimits,
)
from engine.draft.calibration import Calibration
from engine.planner import Planner, Try, Usefulness
from engine.policy.base import Attempt, Position, SpareMs
from engine.tree import TokenTree


@dataclass(frozen=True, slots=True)
class _Learnt:
    """What generations have taught about text of one kind: drawn greedily, or at random."""

    planner: Planner
    calibrations: tuple[Calibration, ...]
    """By drafter, as the next."""
    usefulness: tuple[Usefulness, ...]


class _StepTree:
    """The tree of one step, and who vouches for each node."""

    def __init__(self, position: Position, limits: TreeLimits, floor: float) -> None:
        self.tree = TokenTree.root(position.history[-1])
        self.history = position.history
        self.limits = limits
        self.outlook = position.outlook
        self.floor = floor
        self.claims: list[dict[int, int]] = [{}]
        """By node: evidence by drafter."""
        self.value = 1.0
        """What it is worth, in tokens: a bare root gives one."""
        self._furthest = min(2 * limits.depth, position.left - 1)
        self._closed: set[int] = set()
        # Where anything may follow the root, so it may further on.
        self._free = position.outlook.allowed(()) is None

    def look_further(self) -> None:
        """Have room for as many levels again: what is drafted from here on is for the step to come."""
        self.limits = replace(self.limits, depth=self._furthest)

    def uncovered(self, node: int) -> float:
        tree = self.tree
        covered = sum(tree.chances[child] for child in tree.children(node).values())
        return tree.scores[node] * max(0.0, 1.0 - covered)

    def is_open(self, node: int) -> bool:
        return node not in self._closed

    def _may_follow(self, parent: int, token: int) -> bool:
        allowed = self.outlook.allowed(self.tree.path(parent))
        return allowed is None or token in allowed

    def add(self, parent: int, token: int, evidence: int, drafter: int, chance: float) -> int | None:
        tree = self.tree
        known = tree.child(parent, token)
        if known is None:
            if parent in self._closed or tree.depths[parent] >= self.limits.depth:
                return None
            # Guesses at the root cost next to nothing, and what becomes of them is always learnt.
            if parent and tree.scores[parent] * chance < self.floor:
                return None
            if len(tree) > self.limits.most_grown:
                return None
            if not self._free and not self._may_follow(parent, token):
                return None
        node = tree.add(parent, token, chance)
        if known is None:
            self.claims.append({})
            if self.outlook.closes(tree, node):
                self._closed.add(node)
        self.claims[node].setdefault(drafter, evidence)
        return node


class _DrafterGrowth:
    """A step's tree as one drafter sees it."""

    def __init__(self, step: _StepTree, drafter: int, chances: Sequence[float]) -> None:
        self._step = step
        self._drafter = drafter
        self._chances = chances
        self.tree = step.tree
        self.history = step.history
        self.outlook: Outlook = step.outlook
        self.uncovered = step.uncovered
        self.is_open = step.is_open

    @property
    def limits(self) -> TreeLimits:
        return self._step.limits

    def add(self, parent: int, token: int, evidence: int) -> int | None:
        return self._step.add(parent, token, evidence, self._drafter, self._chances[evidence])


@dataclass(slots=True)
class _Turn:
    """What one drafter does in one step."""

    index: int
    session: DraftSession
    growth: _DrafterGrowth
    usefulness: Usefulness
    tries: list[Try] = field(default_factory=list[Try])
    gained: float = 0.0
    """What it added to the tree's worth, in tokens."""
    seen: int = 0
    """The tree's nodes when it was last asked."""

    @property
    def cost_ms(self) -> float:
        """What it took between passes, by the tables."""
        return sum(tried.cost_ms for tried in self.tries)

    def deepen_ahead(self, before_layer: BeforeLayer) -> None:
        """Add guesses for the step to come."""
        scores = self.growth.tree.scores
        uncovered, before = self.session.uncovered(self.growth), sum(scores)
        self.session.deepen(self.growth, before_layer)
        self.usefulness.covered(uncovered, sum(scores) - before)


def opened(memory: DraftMemory, opening: Opening) -> DraftSession | None:
    """A drafter's session; None if it raised, which is not the request's fault."""
    try:
        return memory.open(opening)
    except Exception:  # noqa: BLE001
        return None


class DynamicSession:
    """One generation."""

    def __init__(
        self,
        names: Sequence[str],
        sessions: Sequence[DraftSession | None],
        limits: TreeLimits,
        learnt: _Learnt,
    ) -> None:
        self._names = names
        self._sessions = sessions
        self._limits = limits
        self._learnt = learnt
        self._step: _StepTree | None = None
        self._turns: list[_Turn] = []
        """Of that step: the drafters that were asked."""
        self._spent = (1, 0, 0.0)
        """Of the last step: rows of its tree, tokens read before it, milliseconds of drafting."""
        self._broken = {index for index, session in enumerate(sessions) if session is None}

    @property
    def failed(self) -> Sequence[str]:
        return [self._names[index] for index in sorted(self._broken)]

    def grow(self, position: Position, before_layer: BeforeLayer) -> TokenTree:
        planner = self._learnt.planner
        limits = replace(self._limits, depth=min(self._limits.depth, position.left - 1))
        step = self._step = _StepTree(position, limits, planner.floor)
        self._turns = []
        if limits.depth > 0 and limits.size > 0:
            self._draft(step, position, Attempt(before_layer))
        tree = step.tree
        ranked = tree.ranked()[: limits.size]
        scores = [tree.scores[node] for node in ranked]
        size = planner.size(scores, position.pending, position.left)
        self._spent = (1 + size, position.pending, sum(turn.cost_ms for turn in self._turns))
        return tree.only(ranked[:size])

    def _draft(self, step: _StepTree, position: Position, attempt: Attempt) -> None:
        """Give every drafter its turn, and another where the others have added to the tree since."""
        learnt = self._learnt
        for index, session in enumerate(self._sessions):
            if session is not None and index not in self._broken:
                growth = _DrafterGrowth(step, index, learnt.calibrations[index].chances)
                turn = _Turn(index, session, growth, learnt.usefulness[index])
                self._turns.append(turn)
                self._guard(turn, attempt, partial(session.begin, position.history))
        while waiting := [turn for turn in self._working() if turn.seen < len(step.tree)]:
            for turn in waiting:
                self._guard(turn, attempt, partial(self._add_what_pays, turn, step, position, attempt))
                turn.seen = len(step.tree)
        for turn in self._working():
            turn.usefulness.learn(turn.tries, turn.gained, learnt.planner.rate, learnt.planner.now_ms)

    def _working(self) -> list[_Turn]:
        return [turn for turn in self._turns if turn.index not in self._broken]

    def _guard(self, turn: _Turn, attempt: Attempt, action: Callable[[], None]) -> None:
        """Do what a drafter does, and go without it from then on if it fails."""
        if not attempt.succeeds(action):
            self._broken.add(turn.index)

    def _add_what_pays(self, turn: _Turn, step: _StepTree, position: Position, attempt: Attempt) -> None:
        """Let a drafter add what is worth its time."""
        planner = self._learnt.planner
        while (uncovered := turn.session.uncovered(turn.growth)) > 0.0:
            asked = Try(uncovered, turn.session.cost_ms(turn.growth), turn.gained)
            # What was drafted ahead is there for the taking, and says nothing of what drafting is worth.
            if asked.cost_ms > 0.0:
                if not turn.usefulness.worth(asked, turn.tries, planner.rate, planner.now_ms):
                    return
                turn.tries.append(asked)
            before = step.value
            try:
                turn.session.deepen(turn.growth, attempt.before_layer)
            finally:
                step.value = self._value(step.tree, position)
            turn.gained += step.value - before

    def _value(self, tree: TokenTree, position: Position) -> float:
        scores = sorted(tree.scores[1:], reverse=True)[: self._limits.size]
        return self._learnt.planner.value(scores, position.pending)

    def grow_on(self, spare_ms: SpareMs, before_layer: BeforeLayer) -> None:
        """Let the same tree grow beyond what is being verified: its best guesses are the next one's roots.

        What a drafter remembers of it costs nothing once the text has come there. The one that covers most of
        what may come, for its time, is asked first.
        """
        step = self._step
        if step is None or not self._turns:
            return
        step.look_further()
        attempt = Attempt(before_layer)
        while offers := self._offers(spare_ms(), attempt):
            promise = max(offers)
            turn = offers[promise]
            self._guard(turn, attempt, partial(turn.deepen_ahead, attempt.before_layer))

    def _offers(self, spare_ms: float, attempt: Attempt) -> dict[float, _Turn]:
        """Drafters that have time to deepen the tree, by what they promise."""
        offers: dict[float, _Turn] = {}

        def look(turn: _Turn) -> None:
            uncovered = turn.session.uncovered(turn.growth)
            if uncovered > 0.0 and (cost_ms := turn.session.cost_ms(turn.growth)) < spare_ms:
                offers.setdefault(turn.usefulness.promise(uncovered, cost_ms), turn)

        for turn in self._working():
            self._guard(turn, attempt, partial(look, turn))
        return offers

    def learn(self, emitted: Sequence[int]) -> None:
        step = self._step
        if step is None:
            return
        calibrations = self._learnt.calibrations
        node: int | None = 0
        for drawn in emitted:
            for token, child in step.tree.children(node).items():
                for drafter, evidence in step.claims[child].items():
                    calibrations[drafter].learn(evidence, hit=token == drawn)
            node = step.tree.child(node, drawn)
            if node is None:
                break
        rows, pending, drafting_ms = self._spent
        self._learnt.planner.record(len(emitted), rows, pending, drafting_ms)


class DynamicPolicy:
    """Best-first trees of many drafters, in the order that they are given in.

    Source: SpecInfer (Miao et al. 2024) merges drafts into a tree; Sequoia (Chen et al. 2024) and SpecExec
    (Svirschevski et al. 2024) size and order it by probability.
    """

    def __init__(self, drafters: Sequence[Drafter], limits: TreeLimits, costs: CostTable) -> None:
        self._drafters = tuple(drafters)
        self._limits = limits
        self._by_kind = {greedy: self._nothing_learnt(costs) for greedy in (True, False)}

    def _nothing_learnt(self, costs: CostTable) -> _Learnt:
        return _Learnt(
            Planner(costs),
            tuple(Calibration(drafter.priors) for drafter in self._drafters),
            tuple(Usefulness() for _ in self._drafters),
        )

    @property
    def most_nodes(self) -> int:
        return 1 + self._limits.size

    def new_memories(self) -> tuple[DraftMemory, ...]:
        return tuple(drafter.new_memory() for drafter in self._drafters)

    def open(self, memories: Sequence[DraftMemory], opening: Opening, *, greedy: bool) -> DynamicSession:
        names = [drafter.name for drafter in self._drafters]
        sessions = [opened(memory, opening) for memory in memories]
        return DynamicSession(names, sessions, self._limits, self._by_kind[greedy])
