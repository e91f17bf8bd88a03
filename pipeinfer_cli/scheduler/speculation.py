"""What to draft next, and which drafts to believe: the drafting half of the scheduler.

The drafter is asked for what follows the most probable node of the token tree that it was not asked
for yet. With one candidate per node (a chain) it then goes on by itself, until told otherwise.

Reactive speculation follows PipeInfer (SC24, arXiv 2407.11798): the confidence cutoff rises with
every miss (recovery), and falls when the pipeline would idle (decay).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeinfer_cli.scheduler.interfaces import Candidate
from pipeinfer_cli.scheduler.policy import DraftConfig, Policy
from pipeinfer_cli.scheduler.token_tree import Node, State, TokenTree, Verdict


@dataclass(frozen=True, slots=True)
class DraftRequest:
    """What to draft: tokens that continue `context`, at most `n_max`, until told otherwise."""

    epoch: int  # of this request; what is drafted for earlier ones is not wanted any more
    context: tuple[int, ...]
    n_max: int
    n_candidates: int = 1  # per position; the draft continues after the best one
    # The run waits for the whole draft: it is told of at once, when it has ended.
    is_whole: bool = False
    p_min: float = 0.0  # the draft ends with a token below this probability


@dataclass(frozen=True, slots=True)
class Draft:
    """One drafted token, or (`token` None) the end of what was requested."""

    epoch: int
    position: int
    token: int | None
    probability: float = 1.0  # how sure the drafter is of the token
    alternatives: tuple[Candidate, ...] = ()  # less probable ones, the best first
    took_us: int = 0  # the drafter's time for it


class Drafts(Protocol):
    """What is needed of a request's drafter at work: of drafters.thread.DraftThread."""

    def request(self, request: DraftRequest) -> None:
        """Starts a draft."""

    def set_epoch(self, epoch: int) -> None:
        """Ends drafts of earlier epochs."""

    def take(self) -> list[Draft]:
        """What has been drafted since the last call."""


@dataclass(frozen=True, slots=True)
class _Held:
    """A draft that was too improbable when it came."""

    parent: Node
    token: int
    probability: float


class Speculation:
    """Drafts for one request. Adds nodes to its token tree; the scheduler feeds them."""

    def __init__(self, tree: TokenTree, policy: Policy, *, n_feed_max: int) -> None:
        self._tree = tree
        self._policy = policy
        self._n_feed_max = n_feed_max  # positions from here on are not worth a run
        self.n_max = policy.draft.n_max if policy.draft else 0  # tokens of a synchronous draft
        self._is_on = policy.draft is not None
        self._draft = policy.draft or DraftConfig()
        self._cutoff = self._draft.p_min
        self._held: list[_Held] = []
        self._n_round = 0  # tokens drafted since the tree was last empty
        # the request under way
        self.epoch = 0
        self._parent: Node | None = None  # of the token that the drafter is at
        self._n_due = 0  # tokens that are still to come

    @property
    def is_waiting(self) -> bool:
        """True if more can be drafted for the text as it is, or is being drafted."""
        return self._parent is not None or self._next_parent() is not None

    def switch(self, is_on: bool) -> None:
        """Begins or ends speculation. What was fed stays."""
        if self._is_on and not is_on:
            if self._parent is not None:
                self._parent.is_open = True
            self._stop()
            self._held.clear()
            self._tree.drop_unfed()
        self._is_on = is_on and self._policy.draft is not None

    def take_request(self) -> DraftRequest | None:
        """What to draft now; None if the drafter is at work or nothing more is wanted."""
        if self._parent is not None or (parent := self._next_parent()) is None:
            return None
        parent.is_open = False
        self._parent = parent
        self._n_due = self._room(parent) if self._draft.width == 1 else 1
        self.epoch += 1
        is_whole = self._policy.is_synchronous
        return DraftRequest(
            self.epoch,
            self._tree.context(parent),
            self._n_due,
            self._draft.width,
            is_whole=is_whole,
            p_min=self._cutoff if is_whole else 0.0,
        )

    def _next_parent(self) -> Node | None:
        parent = self._tree.best_open() if self._is_on else None
        return parent if parent is not None and self._room(parent) > 0 else None

    def _room(self, parent: Node) -> int:
        """How many more tokens may be drafted now, one after the other from `parent` on."""
        n_ahead = self.n_max if self._policy.is_synchronous else self._draft.n_max
        if not self._policy.is_synchronous and not self._policy.no_continuous:
            n_ahead *= self._policy.depth
        n_drafted = self._n_round if self._policy.no_continuous else self._tree.n_drafted
        return min(n_ahead - n_drafted, self._n_feed_max - 1 - parent.position)

    def is_wanted(self, draft: Draft) -> bool:
        """Whether it is of the request under way."""
        return draft.epoch == self.epoch and self._parent is not None

    def on_draft(self, draft: Draft) -> None:
        """A drafted token, or the end of a draft. What earlier requests asked for is ignored."""
        if not self.is_wanted(draft):
            return
        if draft.token is None:
            self._end_early()
            return
        parent = self._parent
        assert parent is not None
        assert draft.position == parent.position + 1, "drafts come in the order of positions"
        if parent.state is State.DECIDED and parent is not self._tree.root:
            self._on_overtaken(parent, draft.token)
        elif draft.probability < self._cutoff:
            if not self._policy.is_synchronous:
                self._held.append(_Held(parent, draft.token, draft.probability))
            self._end_early()
        else:
            self._go_on(self._add(parent, draft.token, draft.probability))
            for token, probability in draft.alternatives:
                if probability >= self._draft.p_split and token not in parent.children:
                    self._add(parent, token, probability)

    def _add(self, parent: Node, token: int, probability: float) -> Node:
        self._n_round += 1
        return self._tree.add(parent, token, probability)

    def _on_overtaken(self, parent: Node, token: int) -> None:
        """The target has decided this position since then."""
        (decided,) = parent.children.values()
        if decided.token == token:
            self._go_on(decided)
        else:
            self._stop()

    def _go_on(self, parent: Node) -> None:
        """The drafter continues after this node, if it has not finished the request."""
        self._n_due -= 1
        self._parent = parent if self._n_due > 0 else None
        parent.is_open = self._n_due == 0

    def _end_early(self) -> None:
        """The rest of the request will not come, or is not wanted."""
        self._stop()
        is_too_short = self._tree.n_drafted < self._draft.n_min
        if self._policy.is_synchronous and is_too_short and self._next_parent() is None:
            self._tree.drop_unfed()

    def _stop(self) -> None:
        self.epoch += 1
        self._parent = None

    def on_verdicts(self, verdicts: Iterable[Verdict]) -> None:
        """The text has grown."""
        if self._tree.n_drafted == 0:
            self._n_round = 0
        if self._policy.is_synchronous:
            self._end_round(list(verdicts))
        elif not self._policy.no_reactive:
            for verdict in verdicts:
                if verdict is Verdict.ACCEPTED:
                    self._cutoff = self._draft.p_min
                elif verdict is Verdict.MISSED:
                    self._cutoff = min(1.0, self._cutoff + self._draft.p_recovery)
        if self._parent is not None and self._parent.state is State.DEAD:
            self._stop()

    def _end_round(self, verdicts: Sequence[Verdict]) -> None:
        """The cutoff of drafts whose length is chosen falls while they are right to the end.

        A miss raises it again, as far as `p_min`: a drafter may be right more often than it is
        sure. Drafts of a given length have a fixed cutoff.
        """
        if not self._policy.chooses_length or not self._is_on:
            return
        if Verdict.MISSED in verdicts:
            self._cutoff = min(self._draft.p_min, self._cutoff + self._draft.p_recovery)
        else:
            self._cutoff = max(0.0, self._cutoff - self._draft.p_decay)

    def release_held(self) -> None:
        """The pipeline would idle: the cutoff falls, possibly below a held token's probability."""
        self._held = [each for each in self._held if self._is_wanted(each)]
        if not self._held or self._policy.no_reactive:
            return
        self._cutoff = max(0.0, self._cutoff - self._draft.p_decay)
        best = max(self._held, key=lambda held: held.probability)
        if best.probability >= self._cutoff:
            self._held.remove(best)
            self._add(best.parent, best.token, best.probability)

    def _is_wanted(self, held: _Held) -> bool:
        return held.parent is self._tree.root or held.parent.state is State.DRAFTED
