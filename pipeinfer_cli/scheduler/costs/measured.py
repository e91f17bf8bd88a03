"""What runs and drafts cost: from a calibration, and as they show it while running."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import NamedTuple, Protocol

from pipeinfer_cli.scheduler.runs import RunStatus, StageTime

EWMA_DECAY = 0.95  # how much of what was known a new measurement leaves
SLOPE = 0.1  # T(k + 1) - T(k) over T(1), while only one size has been seen
LEAST_SLOPE = 0.01  # the same beyond all sizes that were seen
LEAST_US = 1  # what stages measure as nothing takes a moment, too
OUTLIER = 2.0  # times what is usual: longer ones say something of the machine, not of the size
SCALE_EWMA_DECAY = 0.8  # how much of a prior's scale a run leaves
REVIEW_EVERY = 8  # results, or drafts, after which tables of costs are made again
N_FIRST = 16  # of them, after each of which they are
N_LINE = 3  # sizes that say something of the others
LINE_WEIGHT = 3  # runs of a size that count as much as the line through all sizes
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
        self._prior_s = [times_to(self._prior, LARGEST, which) for which in (0, 1) if prior]
        self._scale: Times = (1.0, 1.0)
        self._runs = _BySize()
        # By drafter, and by branches of a draft; both times are the same.
        self._drafts_of: dict[str, _BySize] = {}
        self._prior_draft_s = prior.draft_s if prior else 0.0
        self._drafter = ""
        self._n_stages = n_stages
        self._run_news, self._draft_news = _News(), _News()
        self._table = self._new_table()

    @property
    def is_known(self) -> bool:
        """Whether there is anything to go by."""
        return bool(self._prior or self._runs.seen)

    @property
    def _known(self) -> dict[int, Times]:
        """What there is to go by."""
        slowest, all_stages = self._scale
        known = {n: (t[0] * slowest, t[1] * all_stages) for n, t in self._prior.items()}
        is_alone = self._n_stages == 1 and not known
        known.update(self._runs.smoothed() if is_alone else self._runs.seen)
        return known

    def change_drafter(self, drafter: str, *, has_prior: bool) -> None:
        """The one that drafts from now on, where there are several: its times count.

        `has_prior`: the prior's time for a token is this drafter's.
        """
        if drafter not in self._drafts_of and not has_prior:
            self._drafts_of[drafter] = _BySize()
        self._drafter = drafter
        self._draft_news.are_due = True

    @property
    def _drafts(self) -> _BySize:
        return self._of_drafter(self._drafter)

    def _of_drafter(self, drafter: str) -> _BySize:
        if drafter not in self._drafts_of:
            found = self._drafts_of[drafter] = _BySize()
            if (prior_s := self._prior_draft_s) > 0:
                found.seen[1] = (prior_s, prior_s)
        return self._drafts_of[drafter]

    @property
    def draft_s(self) -> float:
        """The drafter's time for one token; 0: unknown."""
        seen = self._drafts.seen
        return times_to(seen, 1, 0, self._drafts.n_seen)[1] if seen else 0.0

    def on_run(self, n_tokens: int, times: Sequence[StageTime]) -> None:
        """A run of n tokens is over; it says something if every stage has computed it."""
        completed = RunStatus.COMPLETED
        all_us = [each.compute_us or LEAST_US for each in times if each.status is completed]
        if not times or len(all_us) < len(times):
            return
        new = (max(all_us) / 1e6, sum(all_us) / 1e6)
        self._runs.add(n_tokens, new)
        self._run_news.are_due |= n_tokens > self._table.n_seen  # what was assumed until now
        if self._prior:
            self._scale = (self._rescaled(n_tokens, new, 0), self._rescaled(n_tokens, new, 1))
        self._run_news.note()

    def _rescaled(self, n_tokens: int, new: Times, which: int) -> float:
        prior_s = self._prior_s[which]
        if n_tokens < len(prior_s):
            expected_s = prior_s[n_tokens]
        else:
            expected_s = time_at(self._prior, n_tokens, which)
        if expected_s <= 0:
            return self._scale[which]
        return _mixed(self._scale[which], new[which] / expected_s, SCALE_EWMA_DECAY)

    def on_draft(self, took_s: float, n_branches: int = 1, drafter: str = "") -> None:
        """The drafter of this name has taken `took_s` to continue `n_branches` branches."""
        self._of_drafter(drafter).add(n_branches, (took_s, took_s))
        self._draft_news.note()

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
        if self._run_news.are_due:
            self._run_news.are_due = False
            self._table = self._new_table()
        if self._draft_news.are_due:
            self._draft_news.are_due = False
            self._table = self._table._replace(draft_s=self._drafts_s())
        return self._table

    def _new_table(self) -> CostTable:
        known = self._known or {1: (1.0, float(self._n_stages))}
        interval_s, compute_s = (
            to_twice(known, LARGEST, which, self._runs.n_seen) for which in (0, 1)
        )
        n_seen = min(max(known), LARGEST)
        return CostTable(interval_s, compute_s, self._drafts_s(), n_seen)

    def _drafts_s(self) -> list[float]:
        seen = self._drafts.seen
        return to_twice(seen, LARGEST, 0, self._drafts.n_seen) if seen else [0.0, 0.0]


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

    def smoothed(self) -> dict[int, Times]:
        """The same, nearer to a line through all of them the fewer there were of a size.

        What was seen once may be a pause of the machine: a dear size is then not tried again. For a
        stage alone, whose rounds rest on few runs; several stages have many runs, and gain more
        from the steps of T(k) than they lose by pauses.
        """
        if len(self.seen) < N_LINE:
            return self.seen
        lines = [line_through([(n, t[which]) for n, t in self.seen.items()]) for which in (0, 1)]

        def near(size: int, which: int) -> float:
            n_seen = self.n_seen[size]
            on_line = lines[which][0] + lines[which][1] * size
            return (n_seen * self.seen[size][which] + LINE_WEIGHT * on_line) / (
                n_seen + LINE_WEIGHT
            )

        return {size: (near(size, 0), near(size, 1)) for size in self.seen}


class _News:
    """Measurements since the tables of costs were made: whether there are enough for new ones."""

    def __init__(self) -> None:
        self._n_measured = 0
        self.are_due = False

    def note(self) -> None:
        """One more."""
        self._n_measured += 1
        self.are_due |= self._n_measured <= N_FIRST or self._n_measured % REVIEW_EVERY == 0


class CostTable(NamedTuple):
    """Times by size, in seconds, looked up: index 0 is 0. See to_twice."""

    interval_s: list[float]
    compute_s: list[float]
    draft_s: list[float]
    n_seen: int  # the largest size of runs that is known, not assumed


def line_through(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Height and slope, neither below 0: medians over all pairs of points, and over all points.

    Theil and Sen's estimate, which a few wild points do not move.
    """
    slope = max(median((y - b) / (x - a) for (a, b), (x, y) in combinations(points, 2)), 0.0)
    return max(median(y - slope * x for x, y in points), 0.0), slope


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


def to_twice(
    known: Mapping[int, Times], largest: int, which: int, n_seen: Mapping[int, int]
) -> list[float]:
    """The same up to twice the largest known size, or `largest`: others are tried step by step."""
    n_most = min(largest, 2 * max(known))
    return times_to(known, n_most, which, n_seen)[: n_most + 1]


def not_falling(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The closest values that do not fall: means of those that do (pool adjacent violators)."""
    if all(map(operator.le, values, values[1:])):
        return list(values)
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
