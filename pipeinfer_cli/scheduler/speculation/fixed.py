"""Speculation with lengths, widths and cutoffs that are given: chains and trees, as in the paper.

The drafter is asked for what follows the most probable node of the token tree that it was not asked
for yet, one node at a time.

Reactive speculation follows PipeInfer (SC24, arXiv 2407.11798): the confidence cutoff rises with
every miss (recovery), and falls when the pipeline would idle (decay).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeinfer_cli.scheduler.costs.measured import MeasuredCosts
from pipeinfer_cli.scheduler.costs.run_size import RunSizer
from pipeinfer_cli.scheduler.interfaces import DraftBatch, DraftedBatch
from pipeinfer_cli.scheduler.policy import DraftConfig, Policy
from pipeinfer_cli.scheduler.speculation.confidence import Confidence
from pipeinfer_cli.scheduler.token_tree import Node, State, TokenTree, Verdict


@dataclass(frozen=True, slots=True)
class _Held:
    """A draft that was too improbable when it came."""

    parent: Node
    token: int
    probability: float


class FixedSpeculation:
    """See Speculation."""

    def __init__(
        self, tree: TokenTree, policy: Policy, costs: MeasuredCosts, *, n_feed_max: int
    ) -> None:
        self._tree = tree
        self._policy = policy
        self._costs = costs
        self._n_feed_max = n_feed_max  # positions from here on are not worth a run
        self._sizer = RunSizer(
            policy.n_draft_max,
            costs,
            in_rounds=policy.is_synchronous,
            shares_cores=policy.shares_cores,
        )
        self._is_on = policy.draft is not None
        self._draft = policy.draft or DraftConfig()
        self._cutoff = self._draft.p_min
        self._held: list[_Held] = []
        self._n_round = 0  # tokens drafted since the tree was last empty
        self.epoch = 0
        self._parent: Node | None = None  # what the drafter is at; None: it has nothing to do
        self._has_read = False  # the drafter knows the text: until then nothing waits for it
        self._draft_forced()

    @property
    def is_waiting(self) -> bool:
        """See Speculation."""
        return self._parent is not None or self._next_parent() is not None

    @property
    def gain(self) -> float | None:
        """A result or two say something of costs, and a few more of the acceptance."""
        return self._sizer.gain

    @property
    def wake_s(self) -> float:
        """See Speculation. They wait for others, not for a time."""
        return math.inf

    def switch(self, is_on: bool) -> None:
        """See Speculation."""
        if self._is_on and not is_on:
            self._take_back_batch()
            self._held.clear()
            self._tree.drop_unfed()
        self._is_on = is_on and self._policy.draft is not None

    def change_drafter(self, confidence: Confidence) -> None:  # noqa: ARG002
        """See Speculation. Cutoffs are given: what confidence is worth does not matter."""
        self._take_back_batch()
        self._has_read = False

    def _take_back_batch(self) -> None:
        if self._parent is not None:
            self._tree.reopen(self._parent)
        self._stop()

    # runs

    @property
    def _run_size(self) -> int:
        """Most drafted tokens in a run of their own, or of a synchronous policy."""
        if self._policy.draft is None:
            return 0
        if self._policy.is_synchronous and not self._policy.chooses_length:
            return self._policy.draft.n_max
        return self._policy.run_size or self._sizer.sizes.alone

    def n_with_decided(self, n_live: int, *, may_wait: bool = True) -> int | None:
        """See Speculation."""
        if self._policy.is_synchronous:
            return None if n_live > 0 or self.is_waiting else self._run_size
        if not may_wait or n_live > 0 or not self._has_read:
            return 0
        n_wanted = 0 if self._policy.run_size else self._sizer.sizes.with_decided
        return None if self.is_waiting and self._tree.n_unfed < n_wanted else n_wanted

    def n_alone(self, n_live: int, now_s: float) -> int:  # noqa: ARG002
        """See Speculation."""
        if self._policy.is_synchronous:
            return 0
        is_full = self._tree.n_unfed >= self._run_size
        if not is_full and n_live > 0 and self.is_waiting:
            return 0
        if self._tree.n_unfed == 0:
            self._release_held()
        return self._run_size

    def on_run(self) -> None:
        """See Speculation."""
        self._sizer.on_run()

    # drafting

    def take_batch(self) -> DraftBatch | None:
        """See Speculation."""
        if self._parent is not None or (parent := self._next_parent()) is None:
            return None
        self._tree.mark_asked(parent)
        self._parent = parent
        self.epoch += 1
        return self._tree.batch([parent], self.epoch, self._draft.width)

    def _next_parent(self) -> Node | None:
        parent = self._tree.best_open() if self._is_on else None
        return parent if parent is not None and self._room(parent) > 0 else None

    def _room(self, parent: Node) -> int:
        """How many more tokens may be drafted now, one after the other from `parent` on."""
        n_ahead = self._run_size if self._policy.is_synchronous else self._draft.n_max
        if not self._policy.is_synchronous and not self._policy.no_continuous:
            n_ahead *= self._policy.depth
        n_drafted = self._n_round if self._policy.no_continuous else self._tree.n_drafted
        return min(n_ahead - n_drafted, self._n_feed_max - 1 - parent.position)

    def on_drafted(self, drafted: DraftedBatch) -> None:
        """See Speculation."""
        if drafted.took_us and self._has_read:
            self._costs.on_draft(drafted.took_us / 1e6, drafter=drafted.drafter)
        self._has_read |= drafted.epoch == self.epoch
        parent = self._parent
        if drafted.epoch != self.epoch or parent is None:
            return
        is_first = self._tree.n_drafted == 0
        self._parent = None
        (candidates,) = drafted.candidates
        is_overtaken = parent.state is State.DECIDED and parent is not self._tree.root
        if is_overtaken:
            return
        candidates = parent.allowed(candidates)
        is_kept = bool(candidates) and candidates[0][1] >= self._cutoff
        self._sizer.on_kept(is_kept, is_first=is_first)
        if is_kept:
            self._keep(parent, candidates)
        elif candidates and not self._policy.is_synchronous:
            self._held.append(_Held(parent, *candidates[0]))
        if not is_kept:
            self._end_early()
        self._draft_forced()

    def _keep(self, parent: Node, candidates: Sequence[tuple[int, float]]) -> None:
        (token, probability), *others = candidates
        self._add(parent, token, probability)
        for token, probability in others:
            if probability >= self._draft.p_split and token not in parent.children:
                self._add(parent, token, probability)

    def _draft_forced(self) -> None:
        """Where a grammar leaves a single token nobody need be asked."""
        if self._tree.root.constraint is None:
            return
        while (parent := self._next_parent()) is not None:
            if self._tree.add_forced(parent) is None:
                return
            self._n_round += 1

    def _add(self, parent: Node, token: int, probability: float) -> None:
        self._n_round += 1
        self._tree.add(parent, token, probability)

    def _end_early(self) -> None:
        """The drafter has nothing more, or is not sure enough of it."""
        is_too_short = self._tree.n_drafted < self._draft.n_min
        if self._policy.is_synchronous and is_too_short and self._next_parent() is None:
            self._tree.drop_unfed()

    def _stop(self) -> None:
        self.epoch += 1
        self._parent = None

    def on_decided(self, root: Node) -> None:
        """See Speculation."""

    def on_verdicts(self, verdicts: Sequence[Verdict], now_s: float) -> None:  # noqa: ARG002
        """See Speculation."""
        self._sizer.on_verdicts(verdicts)
        if self._tree.n_drafted == 0:
            self._n_round = 0
        if self._policy.is_synchronous:
            self._end_round(verdicts)
        elif not self._policy.no_reactive:
            for verdict in verdicts:
                if verdict is Verdict.ACCEPTED:
                    self._cutoff = self._draft.p_min
                elif verdict is Verdict.MISSED:
                    self._cutoff = min(1.0, self._cutoff + self._draft.p_recovery)
        if self._parent is not None and self._parent.state is State.DEAD:
            self._stop()
        self._draft_forced()

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

    def _release_held(self) -> None:
        """The pipeline would idle: the cutoff falls, possibly below a held token's probability."""
        self._held = [each for each in self._held if self._is_wanted(each)]
        if not self._held or self._policy.no_reactive:
            return
        self._cutoff = max(0.0, self._cutoff - self._draft.p_decay)
        best = max(self._held, key=lambda held: held.probability)
        if best.probability >= self._cutoff:
            self._held.remove(best)
            if best.token not in best.parent.children:
                self._add(best.parent, best.token, best.probability)

    def _is_wanted(self, held: _Held) -> bool:
        return held.parent is self._tree.root or held.parent.state is State.DRAFTED
