"""Speculation that chooses for itself: trees whose nodes are drafted and fed by expected gain.

The drafter expands several nodes in one pass, the most probable of the tree first; while it has
nothing better to do it continues below second choices, so that a miss finds its drafts ready. Runs
take the nodes that are worth their time (planning.py). Probabilities are the drafter's, corrected
by how often it was right (confidence.py).

Asynchronous runs leave when the slowest stage is free for them (costs/pacer.py): what is chosen
earlier is chosen with less knowledge. Synchronous rounds draft until another batch is expected to
cost more than it brings, and verify the best of the tree in one run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from pipeinfer_cli.scheduler.costs.measured import CostTable, Frequency, MeasuredCosts
from pipeinfer_cli.scheduler.costs.pace import Pace
from pipeinfer_cli.scheduler.costs.pacer import StagePacer
from pipeinfer_cli.scheduler.interfaces import DraftBatch, DraftedBatch
from pipeinfer_cli.scheduler.metrics import Counters
from pipeinfer_cli.scheduler.policy import MAX_DRAFT, N_CANDIDATES, Policy
from pipeinfer_cli.scheduler.speculation.confidence import Confidence
from pipeinfer_cli.scheduler.speculation.planning import (
    RunWorth,
    best_batch,
    best_round_size,
    further_s,
    usual_size,
    waiting_s,
)
from pipeinfer_cli.scheduler.token_tree import Node, State, TokenTree, Verdict

MAX_BATCH = 16  # nodes that are expanded together
LEAST = 0.001  # the probability of a path that is worth remembering
ASSUMED_SHARE = 0.7  # of a best candidate
N_WAITING = 24  # unfed nodes: what is less probable than all of them is not drafted
N_FIRST_ROUND = 3  # batches of a synchronous round, before it is known what they cost
WAIT_FACTOR = 1.5  # by which the gain of a wait has to exceed its cost
TOKEN_DECAY, ROUND_DECAY = 0.97, 0.9  # how much of a pace a token leaves, or a round


class AdaptiveSpeculation:
    """See Speculation."""

    def __init__(
        self,
        tree: TokenTree,
        policy: Policy,
        costs: MeasuredCosts,
        *,
        n_feed_max: int,
        confidence: Confidence,
        pacer: StagePacer,
        counters: Counters,
    ) -> None:
        self.epoch = 0
        self._tree = tree
        self._policy = policy
        self._costs = costs
        self._n_feed_max = n_feed_max  # positions from here on are not worth a run
        self._confidence = confidence
        self._pacer = pacer
        self._counters = counters
        self._is_on = True
        self._batch: list[Node] = []  # what the drafter is at
        self._next: tuple[tuple[int, int], list[Node]] | None = None  # see _next_nodes
        self._has_read = False  # the drafter knows the text: until then its time says little
        self._best_share = Frequency(ASSUMED_SHARE)  # what a best candidate's probability is
        # the run size that is worth most, by these costs
        self._usual: tuple[Sequence[float], int] | None = None
        self._pace = Pace(TOKEN_DECAY)  # of the text
        self._decided_s: float | None = None  # when it last grew
        # synchronous rounds
        self._rounds = Pace(ROUND_DECAY)  # as they were planned
        self._round_s = 0.0  # drafting, in the round under way
        self._n_batches = 0  # in it
        self._draft_forced()

    @property
    def _table(self) -> CostTable:
        return self._costs.table

    @property
    def gain(self) -> float | None:
        """See Speculation. Of asynchronous trees nothing is known but what is measured."""
        token_s = self._rounds.token_s
        if token_s is None or not self._policy.is_synchronous:
            return None
        return self._costs.compute_s(1) / token_s

    @property
    def wake_s(self) -> float:
        """See Speculation."""
        is_waiting = self._tree.n_unfed > 0 and not self._policy.is_synchronous
        return self._pacer.leave_s if is_waiting else math.inf

    def switch(self, is_on: bool) -> None:
        """See Speculation."""
        if self._is_on and not is_on:
            self._take_back_batch()
            self._tree.drop_unfed()
        self._is_on = is_on

    def change_drafter(self, confidence: Confidence) -> None:
        """See Speculation."""
        self._take_back_batch()
        self._tree.forget_candidates()
        self._confidence = confidence
        self._has_read = False

    def _take_back_batch(self) -> None:
        for node in self._batch:
            self._tree.reopen(node)
        self._stop()

    # runs

    @property
    def is_waiting(self) -> bool:
        """See Speculation."""
        return bool(self._batch) or bool(self._next_nodes())

    def n_with_decided(self, n_live: int, *, may_wait: bool = True) -> int | None:
        """See Speculation."""
        if self._policy.is_synchronous:
            return None if n_live > 0 or self.is_waiting else self._end_round()
        if not may_wait:  # decided tokens of several requests share a run
            return 0
        probabilities = self._probabilities(self._unfed())
        n_drafted = self._worth.best_size(probabilities, 1)
        if n_live == 0 and self._is_worth_waiting(1 + sum(probabilities[:n_drafted])):
            return None
        return n_drafted

    def _end_round(self) -> int:
        """The round's run leaves now, with this number of drafted tokens."""
        compute_s = self._table.compute_s
        probabilities = self._probabilities(self._unfed())
        n_drafted = best_round_size(probabilities, compute_s, self._round_rate())
        if self._costs.is_known and self._is_on:
            seconds = self._round_s + compute_s[1 + n_drafted]
            self._rounds.add(1 + sum(probabilities[:n_drafted]), seconds)
        self._round_s, self._n_batches = 0.0, 0
        return n_drafted

    def _is_worth_waiting(self, mass: float) -> bool:
        """Whether a run of this mass waits for the batch that is drafted next, or already.

        What it has is later by the time of the batch; what that brings need not wait for a run. A
        drafter that still reads the prompt takes longer than batches do: nothing waits for it.
        """
        if not self._has_read:
            return False
        nodes = self._batch or self._next_nodes()
        probabilities = self._probabilities(node for node in nodes if node.state is not State.DEAD)
        n_expected = sum(probabilities) * self._best_share.rate
        draft_s = self._table.draft_s
        took_s = draft_s[min(len(nodes), len(draft_s) - 1)]
        return n_expected * self._worth.wait_s > WAIT_FACTOR * mass * took_s > 0

    def n_alone(self, n_live: int, now_s: float) -> int:
        """See Speculation."""
        if self._policy.is_synchronous or (n_live > 0 and now_s < self._pacer.leave_s):
            return 0
        nodes = self._unfed()
        return self._worth.best_size(self._each_probability(nodes), 0) if nodes else 0

    @property
    def _worth(self) -> RunWorth:
        interval_s, compute_s, _, n_seen = self._table
        if self._usual is None or self._usual[0] is not interval_s:
            seen_s = interval_s[: n_seen + 1], compute_s[: n_seen + 1]
            self._usual = interval_s, usual_size(*seen_s, self._best_share.rate)
        wait_s = waiting_s(interval_s[1], self._pace.token_s)
        return RunWorth(interval_s, compute_s, wait_s, self._usual[1], n_seen)

    def _unfed(self) -> list[Node]:
        return self._tree.unfed_nodes(MAX_DRAFT) if self._is_on else []

    def _probabilities(self, nodes: Iterable[Node]) -> list[float]:
        """Of their paths, from the root on."""
        return list(self._each_probability(nodes))

    def _each_probability(self, nodes: Iterable[Node]) -> Iterator[float]:
        at_root = self._tree.root.log_probability
        return (math.exp(node.log_probability - at_root) for node in nodes)

    def on_run(self) -> None:
        """See Speculation."""

    # drafting

    def take_batch(self) -> DraftBatch | None:
        """See Speculation."""
        if self._batch or not (nodes := self._next_nodes()):
            return None
        for node in nodes:
            self._tree.mark_asked(node)
        self._batch = nodes
        self._counters.n_expanded += len(nodes)
        self.epoch += 1
        return self._tree.batch(nodes, self.epoch, N_CANDIDATES)

    def _next_nodes(self) -> list[Node]:
        """What to expand now; looked for again when something has changed."""
        if not self._is_on:
            return []
        seen = self._tree.version, self._n_batches
        if self._next is None or self._next[0] != seen:
            self._next = seen, self._find_next_nodes()
        return self._next[1]

    def _find_next_nodes(self) -> list[Node]:
        least = self._least_worth_drafting()
        at_root = self._tree.root.log_probability
        nodes: list[Node] = []
        probabilities: list[float] = []
        for node in self._tree.open_nodes(MAX_BATCH):
            if node.position < self._n_feed_max - 1:
                if (probability := math.exp(node.log_probability - at_root)) < least:
                    break
                nodes.append(node)
                probabilities.append(probability)
        nodes = nodes[: best_batch(probabilities, self._table.draft_s)] if probabilities else []
        return nodes if nodes and self._is_worth_drafting(probabilities[: len(nodes)]) else []

    def _least_worth_drafting(self) -> float:
        """The probability of a node whose best child would still be among the next to be fed."""
        if (last := self._tree.unfed_node(N_WAITING - 1)) is None:
            return LEAST
        return max(LEAST, self._probabilities((last,))[0] / self._best_share.rate)

    def _is_worth_drafting(self, probabilities: Sequence[float]) -> bool:
        """Whether the batch brings more than its time, where that is not the drafter's own."""
        table = self._table
        if self._policy.is_synchronous:
            if table.draft_s[1] <= 0 or not self._costs.is_known:
                return self._n_batches < N_FIRST_ROUND
            return self._expected_more(probabilities) > (
                self._round_rate() * table.draft_s[len(probabilities)]
            )
        if self._policy.shares_cores:
            n_expected = sum(probabilities) * self._best_share.rate
            return n_expected * table.interval_s[1] > table.draft_s[len(probabilities)]
        return True

    def _expected_more(self, probabilities: Sequence[float]) -> float:
        """Tokens that expanding these nodes adds to a round, less what else its run could hold."""
        compute_s = self._table.compute_s
        n_fed = min(self._tree.n_unfed, len(compute_s) - 3)
        least = self._round_rate() * further_s(compute_s, n_fed + 1)
        if self._tree.n_unfed >= MAX_DRAFT:  # the least probable one stays behind
            least = max(least, self._probabilities(self._unfed())[-1])
        best_share = self._best_share.rate
        return sum(max(each * best_share - least, 0.0) for each in probabilities)

    def _round_rate(self) -> float:
        """Tokens per second that rounds bring on the average."""
        token_s = self._rounds.token_s
        return 1 / token_s if token_s else 1 / self._table.compute_s[1]

    def on_drafted(self, drafted: DraftedBatch) -> None:
        """See Speculation."""
        if drafted.took_us and self._has_read:
            took_s, n_branches = drafted.took_us / 1e6, len(drafted.candidates)
            self._costs.on_draft(took_s, n_branches, drafted.drafter)
        self._has_read |= drafted.epoch == self.epoch
        if drafted.epoch != self.epoch or not self._batch:
            return
        self._n_batches += 1
        draft_s = self._table.draft_s
        self._round_s += draft_s[min(len(self._batch), len(draft_s) - 1)]
        at_root = self._tree.root.log_probability
        for node, proposed in zip(self._batch, drafted.candidates, strict=True):
            if node is not self._tree.root and node.state is not State.DRAFTED:
                self._counters.n_late += 1
                continue
            node.candidates = candidates = node.allowed(proposed)
            reached = math.exp(node.log_probability - at_root)
            found = self._confidence.probabilities(candidates, least=LEAST / reached)
            if node is self._tree.root or reached > 0.1:
                self._best_share.add(found[0] if found else 0.0)
            for (token, _), probability in zip(candidates, found, strict=False):
                if token not in node.children:
                    self._tree.add(node, token, probability)
        self._batch = []
        self._draft_forced()

    def _stop(self) -> None:
        self.epoch += 1
        self._batch = []

    # results

    def on_decided(self, root: Node) -> None:
        """See Speculation."""
        if root.candidates and root.next_token is not None:
            self._confidence.on_decided(root.candidates, root.next_token)

    def on_verdicts(self, verdicts: Sequence[Verdict], now_s: float) -> None:
        """See Speculation."""
        if self._decided_s is not None and now_s > self._decided_s:
            self._pace.add(len(verdicts), now_s - self._decided_s, len(verdicts))
        self._decided_s = now_s
        if self._batch and all(node.state is State.DEAD for node in self._batch):
            self._counters.n_late += len(self._batch)
            self._stop()
        self._draft_forced()

    def _draft_forced(self) -> None:
        """Where a grammar leaves a single token nobody need be asked."""
        if self._tree.root.constraint is None:
            return
        while self._is_on and self._tree.n_unfed < N_WAITING:
            node = self._tree.best_open()
            if node is None or node.position >= self._n_feed_max - 1:
                return
            if self._tree.add_forced(node) is None:
                return
