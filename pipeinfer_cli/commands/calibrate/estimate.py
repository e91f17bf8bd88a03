"""A profile from the measured times of runs: medians, rising curves, links."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median

from pipeinfer_cli.cluster.profile import Link, StageCurve
from pipeinfer_cli.scheduler.runs import Result
from pipeinfer_cli.trace.recorder import Recording, RunRecord
from pipeinfer_cli.trace.timeline import hops, stage_offsets

LEAST_MS = 1e-3  # a clock of microseconds has seen nothing shorter
LEAST_LATENCY_US = 0.1
MOST_GBIT_PER_S = 1000.0  # what differs less than that, takes the same time


@dataclass(frozen=True, slots=True)
class Probe:
    """A kind of run that is measured."""

    n_tokens: int
    n_rows: int  # tokens for which the last stage computes the output head


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What the runs show; see cluster.profile.Profile."""

    stages: tuple[StageCurve, ...]
    links: tuple[Link, ...]
    result_link: Link
    output_ms: float  # of the last stage's time for one token: the output head


def estimate(recording: Recording, probes: Mapping[int, Probe]) -> Estimate:
    """The medians of the runs that `probes` (by run id) names; each was alone in the pipeline."""
    results: dict[Probe, list[Result]] = {}
    for run, result in _answered(recording):
        if (probe := probes.get(run.run.run_id)) is not None:
            results.setdefault(probe, []).append(result)
    whole = {probe.n_tokens: found for probe, found in results.items() if probe.n_rows}
    stages = tuple(_curve(whole, stage) for stage in range(recording.n_stages))
    last_ms = stages[-1].ms(1)
    without = results.get(Probe(1, 0))
    output_ms = last_ms - _median_ms(without, recording.n_stages - 1) if without else 0.0
    links = estimate_links(recording, probes)
    return Estimate(
        stages=stages,
        links=links[:-1],
        result_link=links[-1],
        output_ms=min(max(output_ms, 0.0), 0.99 * last_ms),
    )


def _answered(recording: Recording) -> Iterator[tuple[RunRecord, Result]]:
    for run in recording.runs:
        if run.result is not None:
            yield run, run.result


def _curve(results: Mapping[int, Sequence[Result]], stage: int) -> StageCurve:
    sizes = sorted(results)
    times_ms = rising([max(_median_ms(results[size], stage), LEAST_MS) for size in sizes])
    return StageCurve(points=tuple(zip(sizes, times_ms, strict=True)))


def _median_ms(results: Sequence[Result], stage: int) -> float:
    return median(result.times[stage].compute_us for result in results) / 1000


def rising(values: Sequence[float]) -> list[float]:
    """The nearest values (by least squares) that never fall.

    Neighbours in the wrong order get their mean ("pool adjacent violators").
    """
    pools: list[list[float]] = []
    for value in values:
        pools.append([value])
        while len(pools) > 1 and mean(pools[-2]) > mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    return [mean(pool) for pool in pools for _ in pool]


def estimate_links(recording: Recording, probes: Mapping[int, Probe]) -> tuple[Link, ...]:
    """The links into the stages, and back to the head.

    Hops of one token and of the most tokens make a line: its begin is the latency of an empty
    message, its slope the bandwidth. Between hosts, whose clocks say nothing together, the rest of
    the round trips is shared evenly: see timeline.stage_offsets.
    """
    offsets_s = (0.0, *stage_offsets(recording), 0.0)  # of the head, the stages, and the head
    seen: dict[int, list[tuple[list[float], list[int]]]] = {}  # by tokens: seconds, bytes by hop
    for run, result in _answered(recording):
        probe = probes.get(run.run.run_id)
        if probe is not None and probe.n_rows:
            times_s = [
                hop_s + offsets_s[index + 1] - offsets_s[index]
                for index, hop_s in enumerate(hops(run, result))
            ]
            n_bytes = [*(time.in_bytes for time in result.times), result.in_bytes]
            seen.setdefault(probe.n_tokens, []).append((times_s, n_bytes))
    few, many = seen[min(seen)], seen[max(seen)]
    lines = [_line(few, many, link) for link in range(recording.n_stages + 1)]
    # Links that carry token ids only say nothing about the bandwidth.
    known = [rate for _, rate in lines[1:-1]]
    usual = median(known) if known else MOST_GBIT_PER_S
    rates = [usual, *known, usual]
    return tuple(
        Link(latency_us=latency_us, gbit_per_s=rate)
        for (latency_us, _), rate in zip(lines, rates, strict=True)
    )


def _line(
    few: Sequence[tuple[list[float], list[int]]],
    many: Sequence[tuple[list[float], list[int]]],
    link: int,
) -> tuple[float, float]:
    """Latency in microseconds, and Gbit/s."""
    less_s, less_bytes = (median(each[part][link] for each in few) for part in (0, 1))
    more_s, more_bytes = (median(each[part][link] for each in many) for part in (0, 1))
    bits = 8 * (more_bytes - less_bytes)
    least_s = bits / (MOST_GBIT_PER_S * 1e9)
    rate = MOST_GBIT_PER_S
    if bits > 0:
        rate = bits / max(more_s - less_s, least_s) / 1e9
    latency_us = 1e6 * less_s - 8e-3 * less_bytes / rate
    return max(latency_us, LEAST_LATENCY_US), rate
