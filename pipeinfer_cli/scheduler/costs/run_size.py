"""The number of drafted tokens per run, chosen from what runs and drafts have cost so far.

Asynchronous runs here; draft_length.py has the same for synchronous ones.

A run of more tokens gets more of a text through each stage, but is late with its own verdict. A
decided token that waits for drafted ones saves a run, but is late itself: it pays with few stages
and a fast drafter. What is best follows from the time T(k) that the stages take for k tokens, the
drafter's time per token, and how often a drafted token is right.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pipeinfer_cli.scheduler.costs.draft_length import DraftOdds, best_draft_length
from pipeinfer_cli.scheduler.costs.measured import (
    REVIEW_EVERY,
    Costs,
    Frequency,
    MeasuredCosts,
)
from pipeinfer_cli.scheduler.token_tree import Verdict

PRIOR_ACCEPTANCE = 0.7
PRIOR_PERSISTENCE = 0.9  # of drafts
N_FIRST_REVIEWS = 16  # results, each of which is followed by a review in synchronous rounds
EXPLORE_EVERY = 16  # rounds: one drafts a token more, so that it is known what that costs


class _Table:
    """Costs that are looked up: there are many combinations of run sizes."""

    def __init__(self, costs: Costs, largest: int) -> None:
        sizes = range(1, largest + 1)
        self.draft_s = costs.draft_s
        self._interval_s = [0.0, *(costs.interval_s(size) for size in sizes)]
        self._compute_s = [0.0, *(costs.compute_s(size) for size in sizes)]

    def interval_s(self, n_tokens: int) -> float:
        """See Costs."""
        return self._interval_s[n_tokens]

    def compute_s(self, n_tokens: int) -> float:
        """See Costs."""
        return self._compute_s[n_tokens]


class RunSizes(NamedTuple):
    """Drafted tokens in runs."""

    alone: int  # in a run of their own
    with_decided: int = 0  # in the run of a decided token, which waits for them


def chain_tps(
    costs: Costs, sizes: RunSizes, *, acceptance: float, shares_cores: bool = False
) -> float:
    """Tokens per second of an ideal scheduler of chains: links, head and the end cost nothing.

    After a miss the right token leaves as soon as there are as many drafted ones as shall go with
    it. Runs of drafted tokens alone follow as fast as the first stage takes them and the drafter
    fills them: at the same time, or in turn where they share cores. The pass that shows the next
    miss is that of the first run if no more tokens are accepted than went with it, else that of
    the run in which the accepted tokens end.
    """
    size, n_first = sizes.alone, sizes.with_decided
    draft_s = size * costs.draft_s

    def step_s(n_tokens: int) -> float:
        interval_s = costs.interval_s(n_tokens)
        return interval_s + draft_s if shares_cores else max(interval_s, draft_s)

    if acceptance >= 1:
        return size / step_s(size)
    beyond_first = acceptance ** (1 + n_first)
    # Another run is needed with each `size` tokens that are accepted: a geometric series.
    more_runs = beyond_first * acceptance**size / (1 - acceptance**size)
    second_s = step_s(1 + n_first) + costs.compute_s(size)
    cycle_s = n_first * costs.draft_s + (1 - beyond_first) * costs.compute_s(1 + n_first)
    cycle_s += beyond_first * second_s + more_runs * step_s(size)
    return 1 / ((1 - acceptance) * cycle_s)


def best_run_sizes(
    costs: Costs, *, acceptance: float, largest: int, shares_cores: bool = False
) -> RunSizes:
    """With which chains are fastest, at most `largest`."""
    costs = _Table(costs, largest + 1)
    return max(
        (RunSizes(alone, first) for first in range(largest + 1) for alone in range(1, largest + 1)),
        key=lambda sizes: chain_tps(costs, sizes, acceptance=acceptance, shares_cores=shares_cores),
    )


class RunSizer:
    """Chooses the run sizes of one request while it runs; from the start, if costs are known.

    In synchronous rounds, `alone` is the most tokens of a draft.
    """

    def __init__(
        self,
        largest: int,
        costs: MeasuredCosts,
        *,
        in_rounds: bool = False,
        shares_cores: bool = False,
    ) -> None:
        """`in_rounds`: synchronous; `shares_cores`: the drafter takes turns with a stage."""
        self.sizes = RunSizes(alone=1)
        self.gain: float | None = None  # expected speed over that without speculation
        self._largest = largest
        self._in_rounds, self._shares_cores = in_rounds, shares_cores
        self._costs = costs
        self._acceptance = Frequency(PRIOR_ACCEPTANCE)
        self._begins, self._continues = Frequency(PRIOR_PERSISTENCE), Frequency(PRIOR_PERSISTENCE)
        self._n_results = 0
        if costs.is_known and costs.draft_s > 0:
            self._review()

    def on_kept(self, is_kept: bool, *, is_first: bool) -> None:
        """The drafter was sure enough of a token, or had none; the first of a round, or later."""
        (self._begins if is_first else self._continues).count(is_kept)

    def on_verdicts(self, verdicts: Iterable[Verdict]) -> None:
        """The text has grown."""
        for verdict in verdicts:
            if verdict is not Verdict.BONUS:
                self._acceptance.count(verdict is not Verdict.MISSED)

    def on_run(self) -> None:
        """A run is over, and its costs are known."""
        self._n_results += 1
        if self._is_due():
            self._review()

    def _is_due(self) -> bool:
        """Whether it is time for a review: also before and after a round that explores."""
        if self._costs.draft_s == 0 or not self._costs.is_known:
            return False  # nothing was drafted yet
        if not self._in_rounds:
            return self._n_results % REVIEW_EVERY == 0
        explores_at = self._n_results % EXPLORE_EVERY
        is_early = self._n_results <= N_FIRST_REVIEWS
        return is_early or explores_at in (0, REVIEW_EVERY, EXPLORE_EVERY - 1)

    def _review(self) -> None:
        if self._in_rounds:
            self._review_rounds()
        else:
            self._review_chains()

    def _review_chains(self) -> None:
        acceptance = self._acceptance.rate
        self.sizes = best_run_sizes(
            self._costs,
            acceptance=acceptance,
            largest=self._largest,
            shares_cores=self._shares_cores,
        )
        speed = chain_tps(
            self._costs, self.sizes, acceptance=acceptance, shares_cores=self._shares_cores
        )
        self.gain = speed * self._costs.compute_s(1)

    def _review_rounds(self) -> None:
        odds = DraftOdds(
            acceptance=self._acceptance.rate,
            begins=self._begins.rate,
            continues=self._continues.rate,
        )
        best = best_draft_length(self._costs, odds, self._largest)
        self.gain = best.tokens_per_s * self._costs.compute_s(1)
        is_exploring = self._n_results % EXPLORE_EVERY == EXPLORE_EVERY - 1
        self.sizes = RunSizes(alone=min(best.n_max + is_exploring, self._largest))
