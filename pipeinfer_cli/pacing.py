"""How many drafted tokens a run shall carry: chosen from what runs and drafts have cost so far.

A run of more tokens gets more of a text through each stage, but is late with its own verdict. A
decided token that waits for drafted ones saves a run, but is late itself: it pays with few stages
and a fast drafter. What is best follows from the time T(k) that the stages take for k tokens, the
drafter's time per token, and how often a drafted token is right.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pipeinfer_cli.runs import Fate, StageTime
from pipeinfer_cli.tree import Verdict

MEMORY = 0.95  # how much of what was known a new measurement leaves
SLOPE = 0.1  # T(k + 1) - T(k) over T(1), while only one size has been seen
PRIOR_ACCEPTANCE, PRIOR_WEIGHT = 0.7, 4.0  # in tokens
REVIEW_EVERY = 8  # results
SCALE_MEMORY = 0.8  # how much of a prior's scale a run leaves

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


def chain_tps(costs: Costs, sizes: RunSizes, *, acceptance: float) -> float:
    """Tokens per second of an ideal scheduler of chains: links, head and the end cost nothing.

    After a miss the right token leaves as soon as there are as many drafted ones as shall go with
    it. Runs of drafted tokens alone follow as fast as the first stage takes them and the drafter
    fills them. The pass that shows the next miss is that of the first run if no more tokens are
    accepted than went with it, else that of the run in which the accepted tokens end.
    """
    size, n_first = sizes.alone, sizes.with_decided
    draft_s = size * costs.draft_s
    step_s = max(costs.interval_s(size), draft_s)
    if acceptance >= 1:
        return size / step_s
    beyond_first = acceptance ** (1 + n_first)
    # Another run is needed with each `size` tokens that are accepted: a geometric series.
    more_runs = beyond_first * acceptance**size / (1 - acceptance**size)
    second_s = max(costs.interval_s(1 + n_first), draft_s) + costs.compute_s(size)
    cycle_s = n_first * costs.draft_s + (1 - beyond_first) * costs.compute_s(1 + n_first)
    cycle_s += beyond_first * second_s + more_runs * step_s
    return 1 / ((1 - acceptance) * cycle_s)


def best_run_sizes(costs: Costs, *, acceptance: float, largest: int) -> RunSizes:
    """With which chains are fastest, at most `largest`."""
    costs = _Table(costs, largest + 1)
    return max(
        (RunSizes(alone, first) for first in range(largest + 1) for alone in range(1, largest + 1)),
        key=lambda sizes: chain_tps(costs, sizes, acceptance=acceptance),
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
        self._known = dict(self._prior)  # what there is to go by

    def on_run(self, n_tokens: int, times: Sequence[StageTime]) -> None:
        """Every stage has computed a run of so many tokens."""
        new = (max(t.compute_us for t in times) / 1e6, sum(t.compute_us for t in times) / 1e6)
        old = self._seen.get(n_tokens, new)
        self._seen[n_tokens] = (_mixed(old[0], new[0]), _mixed(old[1], new[1]))
        if self._prior:
            self._scale = (self._rescaled(n_tokens, new, 0), self._rescaled(n_tokens, new, 1))
            slowest, all_stages = self._scale
            self._known = {n: (t[0] * slowest, t[1] * all_stages) for n, t in self._prior.items()}
        self._known.update(self._seen)

    def _rescaled(self, n_tokens: int, new: Times, which: int) -> float:
        expected_s = time_at(self._prior, n_tokens, which)
        if expected_s <= 0:
            return self._scale[which]
        return _mixed(self._scale[which], new[which] / expected_s, SCALE_MEMORY)

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
    return low * (1 + SLOPE * (n_tokens - below[-1]))


class Pacer:
    """Chooses the run sizes of one request while it runs; from the start, if costs are known."""

    def __init__(self, largest: int, prior: PriorCosts | None = None) -> None:
        self.sizes = RunSizes(alone=1)
        self._largest = largest
        self._costs = MeasuredCosts(prior)
        self._n_right = PRIOR_ACCEPTANCE * PRIOR_WEIGHT  # fading counts of drafted tokens
        self._n_wrong = (1 - PRIOR_ACCEPTANCE) * PRIOR_WEIGHT
        self._n_results = 0
        if prior is not None and prior.draft_s > 0:
            self._review()

    def on_draft(self, took_us: int) -> None:
        """A token took the drafter so long."""
        self._costs.on_draft(took_us / 1e6)

    def on_verdicts(self, verdicts: Iterable[Verdict]) -> None:
        """The text has grown."""
        for verdict in verdicts:
            if verdict is not Verdict.BONUS:
                is_wrong = verdict is Verdict.MISSED
                self._n_right = MEMORY * self._n_right + (not is_wrong)
                self._n_wrong = MEMORY * self._n_wrong + is_wrong

    def on_run(self, n_tokens: int, times: Sequence[StageTime]) -> None:
        """A run is over."""
        if not times or any(each.fate is not Fate.COMPLETED for each in times):
            return
        self._costs.on_run(n_tokens, times)
        self._n_results += 1
        if self._n_results % REVIEW_EVERY == 0:
            self._review()

    def _review(self) -> None:
        acceptance = self._n_right / (self._n_right + self._n_wrong)
        self.sizes = best_run_sizes(self._costs, acceptance=acceptance, largest=self._largest)


def _mixed(old: float, new: float, memory: float = MEMORY) -> float:
    return memory * old + (1 - memory) * new
