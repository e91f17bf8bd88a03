"""What runs and drafts cost: from a calibration, and as they show it while running."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeinfer_cli.scheduler.runs import RunStatus, StageTime

EWMA_DECAY = 0.95  # how much of what was known a new measurement leaves
SLOPE = 0.1  # T(k + 1) - T(k) over T(1), while only one size has been seen
LEAST_SLOPE = 0.01  # the same beyond all sizes that were seen
LEAST_US = 1  # what stages measure as nothing takes a moment, too
OUTLIER = 2.0  # times what is usual: longer ones say something of the machine, not of the size
SCALE_EWMA_DECAY = 0.8  # how much of a prior's scale a run leaves
REVIEW_EVERY = 8  # results or drafts, after which tables of costs are made again
N_FIRST = 16  # of them, after each of which they are
LARGEST = 32  # tokens of a run, or nodes of a batch, in those tables

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

    def __init__(self, prior: PriorCosts | None = None, *, n_stages: int = 1) -> None:
        """`n_stages`: as many equal ones there are, as long as nothing is known."""
        self._prior: Mapping[int, Times] = prior.by_size if prior else {}
        self._scale: Times = (1.0, 1.0)
        self._runs = _BySize()
        self._known = dict(self._prior)  # what there is to go by
        self._drafts = _BySize()  # by branches of a draft; both times are the same
        if prior and prior.draft_s:
            self._drafts.seen[1] = (prior.draft_s, prior.draft_s)
        self._n_stages = n_stages
        self._table: CostTable | None = None
        self._n_measured = 0

    @property
    def is_known(self) -> bool:
        """Whether there is anything to go by."""
        return bool(self._known)

    @property
    def draft_s(self) -> float:
        """The drafter's time for one token; 0: unknown."""
        seen = self._drafts.seen
        return times_to(seen, 1, 0, self._drafts.n_seen)[1] if seen else 0.0

    def on_run(self, n_tokens: int, times: Sequence[StageTime]) -> None:
        """A run of n tokens is over; it says something if every stage has computed it."""
        if not times or any(each.status is not RunStatus.COMPLETED for each in times):
            return
        all_us = [max(each.compute_us, LEAST_US) for each in times]
        new = (max(all_us) / 1e6, sum(all_us) / 1e6)
        self._runs.add(n_tokens, new)
        if self._prior:
            self._scale = (self._rescaled(n_tokens, new, 0), self._rescaled(n_tokens, new, 1))
            slowest, all_stages = self._scale
            self._known = {n: (t[0] * slowest, t[1] * all_stages) for n, t in self._prior.items()}
        self._known.update(self._runs.seen)
        self._note()

    def _rescaled(self, n_tokens: int, new: Times, which: int) -> float:
        expected_s = time_at(self._prior, n_tokens, which)
        if expected_s <= 0:
            return self._scale[which]
        return _mixed(self._scale[which], new[which] / expected_s, SCALE_EWMA_DECAY)

    def on_draft(self, took_s: float, n_branches: int = 1) -> None:
        """The drafter has taken so long to continue so many branches."""
        self._drafts.add(n_branches, (took_s, took_s))
        self._note()

    def _note(self) -> None:
        self._n_measured += 1
        if self._n_measured <= N_FIRST or self._n_measured % REVIEW_EVERY == 0:
            self._table = None

    def interval_s(self, n_tokens: int) -> float:
        """See Costs."""
        times_s = self.table.interval_s
        if n_tokens < len(times_s):
            return times_s[n_tokens]
        return times_to(self._known, n_tokens, 0, self._runs.n_seen)[n_tokens]

    def compute_s(self, n_tokens: int) -> float:
        """See Costs."""
        times_s = self.table.compute_s
        if n_tokens < len(times_s):
            return times_s[n_tokens]
        return times_to(self._known, n_tokens, 1, self._runs.n_seen)[n_tokens]

    @property
    def table(self) -> CostTable:
        """The same as lists, a few measurements old at most.

        While nothing is known, in units of a stage's time for a token.
        """
        if self._table is None:
            known = self._known or {1: (1.0, float(self._n_stages))}
            self._table = CostTable(known, self._runs.n_seen, self._drafts, LARGEST)
        return self._table


class _BySize:
    """Means of times that fade, by the size of what took so long."""

    def __init__(self) -> None:
        self.seen: dict[int, Times] = {}
        self.n_seen: dict[int, int] = {}

    def add(self, size: int, new: Times) -> None:
        n_seen = self.n_seen[size] = self.n_seen.get(size, 0) + 1
        memory = min(EWMA_DECAY, 1 - 1 / n_seen)  # the mean of the first ones: none counts for all
        old = self.seen.get(size, new)
        usual = (min(new[0], OUTLIER * old[0]), min(new[1], OUTLIER * old[1]))
        self.seen[size] = (_mixed(old[0], usual[0], memory), _mixed(old[1], usual[1], memory))


class CostTable:
    """Times by size, in seconds, looked up: index 0 is 0.

    They end at twice the largest size that was seen: larger ones are tried step by step.
    """

    def __init__(
        self,
        runs: Mapping[int, Times],
        n_seen: Mapping[int, int],
        drafts: _BySize,
        largest: int,
    ) -> None:
        n_runs = min(largest, 2 * max(runs))
        self.interval_s = times_to(runs, n_runs, 0, n_seen)[: n_runs + 1]
        self.compute_s = times_to(runs, n_runs, 1, n_seen)[: n_runs + 1]
        self.draft_s = [0.0, 0.0]
        if drafts.seen:
            n_drafts = min(largest, 2 * max(drafts.seen))
            self.draft_s = times_to(drafts.seen, n_drafts, 0, drafts.n_seen)[: n_drafts + 1]


def time_at(known: Mapping[int, Times], n_tokens: int, which: int) -> float:
    """T(k), which never falls with k."""
    return times_to(known, n_tokens, which)[n_tokens]


def times_to(
    known: Mapping[int, Times], largest: int, which: int, n_seen: Mapping[int, int] | None = None
) -> list[float]:
    """T(0) = 0, T(1), ..., T(largest): linear between known sizes, and never falling.

    `n_seen`: how often each size was seen; those that are not in it count as seen once.
    """
    sizes = sorted(known)
    weights = [1 if n_seen is None else n_seen.get(size, 1) for size in sizes]
    points = not_falling([known[size][which] for size in sizes], weights)
    first, low = sizes[0], points[0]
    times = [0.0] + [low] * first
    for below, above, high in zip(sizes, sizes[1:], points[1:], strict=False):
        step = (high - low) / (above - below)
        times += [low + step * i for i in range(1, above - below + 1)]
        low = high
    per_token = SLOPE * low
    if (n_more := sizes[-1] - first) > 0:
        per_token = max((low - points[0]) / n_more, LEAST_SLOPE * points[0])
    times += [low + per_token * i for i in range(1, largest - sizes[-1] + 1)]
    return times


def not_falling(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The closest values that do not fall: means of those that do (pool adjacent violators)."""
    pools: list[tuple[float, float, int]] = []  # mean, weight, how many
    for value, weight in zip(values, weights, strict=True):
        pool = (value, float(weight), 1)
        while pools and pools[-1][0] > pool[0]:
            mean, before, n = pools.pop()
            both = before + pool[1]
            pool = ((mean * before + pool[0] * pool[1]) / both, both, n + pool[2])
        pools.append(pool)
    return [mean for mean, _, n in pools for _ in range(n)]


class Frequency:
    """How often something happens: counts that fade, from an assumption on."""

    def __init__(self, assumed: float, weight: float = 4.0) -> None:
        """The assumption counts like `weight` cases."""
        self._n_yes = assumed * weight
        self._n_no = (1 - assumed) * weight

    def count(self, happened: bool) -> None:
        """It could have happened once more."""
        self.add(float(happened))

    def add(self, share: float) -> None:
        """It has happened to this part of one case, from 0 to 1."""
        self._n_yes = EWMA_DECAY * self._n_yes + share
        self._n_no = EWMA_DECAY * self._n_no + (1 - share)

    @property
    def rate(self) -> float:
        """From 0 to 1."""
        return self._n_yes / (self._n_yes + self._n_no)


def _mixed(old: float, new: float, memory: float = EWMA_DECAY) -> float:
    return memory * old + (1 - memory) * new
