"""The number of drafted tokens per run, chosen from what runs and drafts have cost so far.

Asynchronous runs here; draft_length.py has the same for synchronous ones.

A run of more tokens gets more of a text through each stage, but is late with its own verdict. A
decided token that waits for drafted ones saves a run, but is late itself: it pays with few stages
and a fast drafter. What is best follows from the time T(k) that the stages take for k tokens, the
drafter's time per token, and how often a drafted token is right.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pipeinfer_cli.scheduler.costs.draft_length import DraftOdds, best_draft_length
from pipeinfer_cli.scheduler.runs import RunStatus, StageTime
from pipeinfer_cli.scheduler.token_tree import Verdict

EWMA_DECAY = 0.95  # how much of what was known a new measurement leaves
SLOPE = 0.1  # T(k + 1) - T(k) over T(1), while only one size has been seen
LEAST_SLOPE = 0.01  # the same beyond all sizes that were seen
PRIOR_ACCEPTANCE, PRIOR_WEIGHT = 0.7, 4.0  # in tokens
PRIOR_PERSISTENCE = 0.9  # of drafts, with the same weight
REVIEW_EVERY = 8  # results
N_FIRST_REVIEWS = 16  # results, each of which is followed by a review in synchronous rounds
EXPLORE_EVERY = 16  # rounds: one drafts a token more, so that it is known what that costs
SCALE_EWMA_DECAY = 0.8  # how much of a prior's scale a run leaves

Times = tuple[float, float]  # in seconds: the slowest stage, all stages


class Costs(Protocol):
    """What a run of k tokens costs, in seconds."""

    @property
    def draft_s(self) -> float:
        """The drafter's time for one token."""

    def interval_s(self, n_tokens: int) -> float:
        """From one run to the next at least: the slowest stage."""

    def compute_s(self, n_tokens: int) -> float:
        """In all stages, one after the other."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorCosts:
    """What runs and drafts are expected to cost, before there are any: from a calibration."""

    by_size: Mapping[int, Times]  # by tokens of a run
    draft_s: float = 0.0  # for a token; 0: unknown
    link_s: float = 0.0  # of one token's way through all links, back to the head

    def n_stages_filled(self) -> float:
        """How many runs of one token keep the slowest stage at work: from one end to the other."""
        slowest_s, all_s = time_at(self.by_size, 1, 0), time_at(self.by_size, 1, 1)
        return (all_s + self.link_s) / slowest_s


class MeasuredCosts:
    """Costs as runs and drafts show them; between the sizes that were seen, T(k) is linear.

    With a prior, sizes that were not seen yet cost what it says, times what the sizes that were
    seen cost more or less than it says: the text may be longer, or the machine busier.
    """

    def __init__(self, prior: PriorCosts | None = None) -> None:
        self.draft_s = prior.draft_s if prior else 0.0
        self._prior: Mapping[int, Times] = prior.by_size if prior else {}
        self._scale: Times = (1.0, 1.0)
        self._seen: dict[int, Times] = {}
        self._n_seen: dict[int, int] = {}  # runs, by their tokens
        self._known = dict(self._prior)  # what there is to go by

    def on_run(self, n_tokens: int, times: Sequence[StageTime]) -> None:
        """Every stage has computed a run of n tokens."""
        new = (max(t.compute_us for t in times) / 1e6, sum(t.compute_us for t in times) / 1e6)
        n_seen = self._n_seen[n_tokens] = self._n_seen.get(n_tokens, 0) + 1
        memory = min(EWMA_DECAY, 1 - 1 / n_seen)  # the mean of the first ones: none counts for all
        old = self._seen.get(n_tokens, new)
        self._seen[n_tokens] = (_mixed(old[0], new[0], memory), _mixed(old[1], new[1], memory))
        if self._prior:
            self._scale = (self._rescaled(n_tokens, new, 0), self._rescaled(n_tokens, new, 1))
            slowest, all_stages = self._scale
            self._known = {n: (t[0] * slowest, t[1] * all_stages) for n, t in self._prior.items()}
        self._known.update(self._seen)

    def _rescaled(self, n_tokens: int, new: Times, which: int) -> float:
        expected_s = time_at(self._prior, n_tokens, which)
        if expected_s <= 0:
            return self._scale[which]
        return _mixed(self._scale[which], new[which] / expected_s, SCALE_EWMA_DECAY)

    def on_draft(self, took_s: float) -> None:
        """A token took the drafter so long."""
        self.draft_s = _mixed(self.draft_s, took_s) if self.draft_s else took_s

    def interval_s(self, n_tokens: int) -> float:
        """See Costs."""
        return time_at(self._known, n_tokens, 0)

    def compute_s(self, n_tokens: int) -> float:
        """See Costs."""
        return time_at(self._known, n_tokens, 1)


def time_at(known: Mapping[int, Times], n_tokens: int, which: int) -> float:
    """T(k), which never falls with k."""
    sizes = sorted(known)
    below = [size for size in sizes if size <= n_tokens]
    above = [size for size in sizes if size > n_tokens]
    if not below:
        return known[above[0]][which]
    low = max(known[size][which] for size in below)
    if above:
        share = (n_tokens - below[-1]) / (above[0] - below[-1])
        return low + share * max(known[above[0]][which] - low, 0.0)
    first = sizes[0]
    per_token = SLOPE * low
    if (n_more := below[-1] - first) > 0:
        per_token = max((low - known[first][which]) / n_more, LEAST_SLOPE * known[first][which])
    return low + per_token * (n_tokens - below[-1])


class Frequency:
    """How often something happens: counts that fade, from an assumption on."""

    def __init__(self, assumed: float) -> None:
        self._n_yes = assumed * PRIOR_WEIGHT
        self._n_no = (1 - assumed) * PRIOR_WEIGHT

    def count(self, happened: bool) -> None:
        """It could have happened once more."""
        self._n_yes = EWMA_DECAY * self._n_yes + happened
        self._n_no = EWMA_DECAY * self._n_no + (not happened)

    @property
    def rate(self) -> float:
        """From 0 to 1."""
        return self._n_yes / (self._n_yes + self._n_no)


class RunSizer:
    """Chooses the run sizes of one request while it runs; from the start, if costs are known.

    In synchronous rounds, `alone` is the most tokens of a draft.
    """

    def __init__(
        self,
        largest: int,
        prior: PriorCosts | None = None,
        *,
        in_rounds: bool = False,
        shares_cores: bool = False,
    ) -> None:
        """`in_rounds`: synchronous; `shares_cores`: the drafter takes turns with a stage."""
        self.sizes = RunSizes(alone=1)
        self.gain: float | None = None  # expected speed over that without speculation
        self._largest = largest
        self._in_rounds, self._shares_cores = in_rounds, shares_cores
        self._costs = MeasuredCosts(prior)
        self._acceptance = Frequency(PRIOR_ACCEPTANCE)
        self._begins, self._continues = Frequency(PRIOR_PERSISTENCE), Frequency(PRIOR_PERSISTENCE)
        self._n_results = 0
        if prior is not None and prior.draft_s > 0:
            self._review()

    def on_draft(self, took_us: int) -> None:
        """A token took the drafter so long."""
        self._costs.on_draft(took_us / 1e6)

    def on_kept(self, is_kept: bool, *, is_first: bool) -> None:
        """The drafter was sure enough of a token, or had none; the first of a round, or later."""
        (self._begins if is_first else self._continues).count(is_kept)

    def on_verdicts(self, verdicts: Iterable[Verdict]) -> None:
        """The text has grown."""
        for verdict in verdicts:
            if verdict is not Verdict.BONUS:
                self._acceptance.count(verdict is not Verdict.MISSED)

    def on_run(self, n_tokens: int, times: Sequence[StageTime]) -> None:
        """A run is over."""
        if not times or any(each.status is not RunStatus.COMPLETED for each in times):
            return
        self._costs.on_run(n_tokens, times)
        self._n_results += 1
        if self._is_due():
            self._review()

    def _is_due(self) -> bool:
        """Whether it is time for a review: also before and after a round that explores."""
        if self._costs.draft_s == 0:
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


def _mixed(old: float, new: float, memory: float = EWMA_DECAY) -> float:
    return memory * old + (1 - memory) * new
