"""Counters and statistics of a request: tokens/s, TTFT, ITL, acceptance, waste."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from statistics import median
from typing import Any

from pipeinfer_cli.scheduler.runs import Result, RunStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """The speed of one request, as the head saw it, and the work behind it.

    Loading the model is not part of it.
    """

    strategy: str
    n_ranks: int
    n_stages: int
    n_prompt: int  # tokens
    n_reused: int  # of these, the ones whose KV cells were there already
    n_generated: int  # tokens
    tokens_per_s: float  # generated tokens after the first one, over the time that they took
    ttft_ms: float  # time to first token: from the first run's submission
    itl_p50_ms: float  # inter-token latency: the time between one token and the next
    itl_p90_ms: float
    itl_p99_ms: float
    total_ms: float
    decode_ms: float  # of it, after the first token: what tokens_per_s is measured over
    n_drafted: int  # speculative tokens that were submitted
    n_accepted: int  # of these, the ones that the target decided, too
    n_expanded: int  # nodes of token trees for which the drafter was asked what follows
    n_late: int  # of these, the ones that were decided or refuted before the answer came
    acceptance_rate: float  # accepted / drafted
    mean_acceptance_length: float  # tokens decided per live run that decided any, with the bonus
    acceptance_by_position: tuple[float, ...]  # of the 1st, 2nd, ... token ahead of the text
    n_runs: int  # launched
    n_completed: int  # decoded by every stage
    n_invalidated: int  # given up, since they rest on a wrong token
    n_superfluous: int  # given up, since the text was long enough without them
    n_cancelled: int  # of those given up: in time, before a stage was through with it
    n_aborted: int  # of the cancelled: in mid-compute
    busy_ms: tuple[float, ...]  # by stage: compute
    wasted_ms: tuple[float, ...]  # by stage: compute for tokens that are not in the text
    messages_per_token: float  # between processes, with runs and results; cancels not counted
    bytes_per_token: float
    mean_in_flight: float  # live runs in flight when a run is submitted, that one included

    def line(self) -> str:
        """For --stats: one line."""
        drafts = ""
        if self.n_drafted:
            drafts = (
                f", acceptance {self.n_accepted}/{self.n_drafted} "
                f"({100 * self.acceptance_rate:.0f} %), length {self.mean_acceptance_length:.2f}, "
                f"runs {self.n_runs}, cancelled {self.n_cancelled} "
                f"({self.n_aborted} in mid-compute)"
            )
        reused = f" ({self.n_reused} of {self.n_prompt} reused)" if self.n_reused else ""
        return (
            f"{self.strategy}, {self.n_ranks} ranks, {self.n_generated} tokens, "
            f"{self.tokens_per_s:.2f} tok/s, TTFT {self.ttft_ms:.1f} ms{reused}, "
            f"ITL p50 {self.itl_p50_ms:.2f} ms p99 {self.itl_p99_ms:.2f} ms{drafts}"
        )

    def as_dict(self) -> dict[str, Any]:
        """For --format json."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestInfo:
    """What the stats say of the request besides its measurements."""

    strategy: str
    n_ranks: int
    n_stages: int
    n_prompt: int
    n_reused: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """When a request began, and when each of its tokens was decided: s, by one clock."""

    start_s: float
    times_s: Sequence[float]

    @property
    def gaps_ms(self) -> list[float]:
        """From one token to the next."""
        times_s = self.times_s
        return [1000 * (b - a) for a, b in zip(times_s, times_s[1:], strict=False)]

    @property
    def ttft_ms(self) -> float:
        """To the first token; 0 if there is none."""
        return 1000 * (self.times_s[0] - self.start_s) if self.times_s else 0.0

    @property
    def total_ms(self) -> float:
        """To the last token."""
        return 1000 * (self.times_s[-1] - self.start_s) if self.times_s else 0.0


def measure(
    info: RequestInfo, start_s: float, token_times_s: Sequence[float], counters: Counters
) -> Stats:
    """Stats from the times (s, one clock) of the request's start and of each generated token."""
    return pool(info, [Timing(start_s=start_s, times_s=token_times_s)], counters)


def merge(counters: Iterable[Counters]) -> Counters:
    """The sums over several requests."""
    merged = Counters()
    for each in counters:
        for item in fields(Counters):
            value, total = getattr(each, item.name), getattr(merged, item.name)
            if isinstance(value, dict):
                for key, count in value.items():
                    total[key] = total.get(key, 0) + count
            else:
                setattr(merged, item.name, total + value)
    return merged


def pool(info: RequestInfo, timings: Sequence[Timing], counters: Counters) -> Stats:
    """Stats of several requests as if they were one: sums, and what follows from sums.

    `counters` and `n_prompt` of `info` are sums already. Of the TTFTs it is the median.
    """
    gaps_ms = [gap for timing in timings for gap in timing.gaps_ms]
    n_generated = sum(len(timing.times_s) for timing in timings)
    stages = range(info.n_stages)
    return Stats(
        **asdict(info),
        n_generated=n_generated,
        tokens_per_s=1000 * ratio(len(gaps_ms), sum(gaps_ms)),
        ttft_ms=median(timing.ttft_ms for timing in timings),
        itl_p50_ms=percentile(gaps_ms, 50),
        itl_p90_ms=percentile(gaps_ms, 90),
        itl_p99_ms=percentile(gaps_ms, 99),
        total_ms=sum(timing.total_ms for timing in timings),
        decode_ms=sum(gaps_ms),
        n_drafted=counters.n_drafted,
        n_accepted=counters.n_accepted,
        n_expanded=counters.n_expanded,
        n_late=counters.n_late,
        acceptance_rate=ratio(counters.n_accepted, counters.n_drafted),
        mean_acceptance_length=ratio(counters.n_decided, counters.n_verified),
        acceptance_by_position=tuple(
            ratio(counters.ahead_accepted.get(ahead, 0), n_drafted)
            for ahead, n_drafted in sorted(counters.ahead_drafted.items())
        ),
        n_runs=counters.n_launched,
        n_completed=counters.n_completed,
        n_invalidated=counters.n_invalidated,
        n_superfluous=counters.n_superfluous,
        n_cancelled=counters.n_cancelled,
        n_aborted=counters.n_aborted,
        busy_ms=tuple(counters.busy_us.get(stage, 0) / 1000 for stage in stages),
        wasted_ms=tuple(counters.wasted_us.get(stage, 0) / 1000 for stage in stages),
        messages_per_token=ratio(counters.n_messages, n_generated),
        bytes_per_token=ratio(counters.n_bytes, n_generated),
        mean_in_flight=ratio(counters.live_sum, counters.n_launched),
    )


def ratio(part: float, whole: float) -> float:
    """Their quotient; 0 of nothing."""
    return part / whole if whole else 0.0


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: at least `percent` per cent of the values do not exceed it.

    0 without values.
    """
    if not values:
        return 0.0
    rank = max(1, -(-len(values) * percent // 100))
    return sorted(values)[int(rank) - 1]


@dataclass(slots=True)
class Counters:
    """What has happened so far."""

    n_drafted: int = 0  # speculative tokens that were submitted
    n_accepted: int = 0  # of these, the ones that the target decided, too
    n_expanded: int = 0  # nodes for which the drafter was asked what follows
    n_late: int = 0  # of these, the ones that were decided or refuted before the answer came
    n_decided: int = 0  # generated tokens
    n_launched: int = 0  # runs
    n_completed: int = 0  # runs that every stage decoded
    n_invalidated: int = 0  # runs given up because they rest on a wrong token
    n_superfluous: int = 0  # runs given up because the text was long enough without them
    n_verified: int = 0  # live runs whose result decided tokens
    ahead_drafted: dict[int, int] = field(default_factory=dict)  # by tokens ahead of the text, 1...
    ahead_accepted: dict[int, int] = field(default_factory=dict)
    n_cancelled: int = 0  # of the runs given up: by a stage before its end
    n_aborted: int = 0  # of these, in mid-compute
    busy_us: dict[int, int] = field(default_factory=dict)  # compute, by stage
    wasted_us: dict[int, int] = field(default_factory=dict)  # of it, for tokens that were wrong
    n_messages: int = 0  # between processes, with runs and results
    n_bytes: int = 0  # in them
    live_sum: int = 0  # live runs in flight, summed over the submissions

    def on_drafted(self, ahead: int) -> None:
        """A drafted token was submitted, `ahead` tokens ahead of the text."""
        self.n_drafted += 1
        _count(self.ahead_drafted, ahead)

    def on_accepted(self, ahead: int) -> None:
        """The target decided a token that was drafted and submitted."""
        self.n_accepted += 1
        _count(self.ahead_accepted, ahead)

    def on_result(self, result: Result, *, n_tokens: int, n_wrong: int) -> None:
        """A run of `n_tokens` is over; `n_wrong` of them are not in the text."""
        self.n_completed += result.status is RunStatus.COMPLETED
        self.n_cancelled += result.status is RunStatus.CANCELLED
        if result.status is RunStatus.CANCELLED:
            self.n_aborted += any(part.status is RunStatus.ABORTED for part in result.times)
        sizes = [part.in_bytes for part in result.times if part.in_bytes]
        self.n_messages += len(sizes) + (result.in_bytes > 0)
        self.n_bytes += sum(sizes) + result.in_bytes
        busy_us, wasted_us = self.busy_us, self.wasted_us
        for part in result.times:
            busy_us[part.stage] = busy_us.get(part.stage, 0) + part.compute_us
        for part in result.times if n_wrong else ():
            _count(wasted_us, part.stage, part.compute_us * n_wrong // n_tokens)


def _count(counts: dict[int, int], key: int, amount: int = 1) -> None:
    counts[key] = counts.get(key, 0) + amount
