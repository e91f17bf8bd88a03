"""From samples to one row per variant: medians over repetitions, speedups, identity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import zip_longest
from statistics import mean, median, stdev
from typing import Any

from pipeinfer_cli.commands.bench.config import BenchGroup
from pipeinfer_cli.commands.bench.record import PLAIN, WARMUP, PipelineInfo, Record, Sample
from pipeinfer_cli.scheduler.metrics import RequestInfo, Stats, Timing, merge, percentile, pool
from pipeinfer_cli.scheduler.policy import Variant


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A variant's measurements. Speeds are tokens/s over all prompts of a repetition."""

    variant: Variant
    stats: Stats  # each value: the median over the repetitions
    samples_ts: tuple[float, ...]  # by repetition
    samples_ns: tuple[int, ...]  # decoding without the first tokens, by repetition
    n_prompts: int  # that were measured in each repetition
    speedup: float | None  # over iterative; None if it was not measured
    speedup_over_speculative: float | None  # over the fastest `speculative` of the group
    n_late: int  # over all repetitions; see Sample
    identical: bool | None  # all token ids are those of plain decoding; None: it was not done

    @property
    def avg_ns(self) -> int:
        """As llama-bench's."""
        return round(mean(self.samples_ns))

    @property
    def stddev_ns(self) -> int:
        """As llama-bench's: of the sample, 0 for a single repetition."""
        return round(stdev(self.samples_ns)) if len(self.samples_ns) > 1 else 0

    @property
    def avg_ts(self) -> float:
        """As llama-bench's."""
        return mean(self.samples_ts)

    @property
    def stddev_ts(self) -> float:
        """As llama-bench's."""
        return stdev(self.samples_ts) if len(self.samples_ts) > 1 else 0.0

    @property
    def median_ts(self) -> float:
        """The speed that tables show."""
        return median(self.samples_ts)

    @property
    def p10_ts(self) -> float:
        """The slow end of the spread; with up to 10 repetitions the slowest."""
        return percentile(self.samples_ts, 10)

    @property
    def p90_ts(self) -> float:
        """The fast end of the spread; with up to 9 repetitions the fastest."""
        return percentile(self.samples_ts, 90)


Repetitions = list[list[Sample]]  # by repetition, by prompt


def summarise(group: BenchGroup, record: Record) -> list[Summary]:
    """A summary per variant, in the group's order; none of a variant without measurements.

    A repetition that was interrupted counts only if there is no whole one; then all variants are
    compared by the prompts that all of them had.
    """
    if record.pipeline is None:
        return []
    samples = [each for each in record.samples if each.repetition != WARMUP]
    measured = comparable(samples, len(group.variants), len(group.prompts))
    truths = _truths(group, record.samples)
    pooled = {
        index: [_pooled(group.variants[index], record.pipeline, each) for each in repetitions]
        for index, repetitions in measured.items()
    }
    by_strategy = {
        strategy: [pooled[i] for i in pooled if group.variants[i].strategy == strategy]
        for strategy in ("iterative", "speculative")
    }
    return [
        _summary(
            group.variants[index],
            pooled[index],
            n_prompts=len(repetitions[0]),
            references=by_strategy,
            n_late=sum(each.n_late for samples in repetitions for each in samples),
            identical=_is_identical([each for each in samples if each.variant == index], truths),
        )
        for index, repetitions in measured.items()
    ]


def comparable(
    samples: Sequence[Sample], n_variants: int, n_prompts: int
) -> dict[int, Repetitions]:
    """What to compare, by variant; see `summarise`."""
    tables: dict[int, dict[tuple[int, int], Sample]] = {}
    for each in samples:
        tables.setdefault(each.repetition, {})[each.variant, each.prompt] = each
    whole = [table for table in tables.values() if len(table) == n_variants * n_prompts]
    if whole or not tables:
        return {
            variant: [[table[variant, prompt] for prompt in range(n_prompts)] for table in whole]
            for variant in range(n_variants)
            if whole
        }
    table = tables[min(tables)]
    shared = [
        prompt
        for prompt in range(n_prompts)
        if all((variant, prompt) in table for variant in range(n_variants))
    ]
    prompts = shared or range(n_prompts)
    found = {
        variant: [[table[variant, prompt] for prompt in prompts if (variant, prompt) in table]]
        for variant in range(n_variants)
    }
    return {variant: repetitions for variant, repetitions in found.items() if repetitions[0]}


def _pooled(variant: Variant, pipeline: PipelineInfo, samples: Sequence[Sample]) -> Stats:
    info = RequestInfo(
        strategy=variant.name,
        n_ranks=pipeline.n_ranks,
        n_stages=pipeline.n_stages,
        n_prompt=sum(each.n_prompt for each in samples),
    )
    timings = [Timing(start_s=each.start_s, times_s=each.times_s) for each in samples]
    return pool(info, timings, merge(each.counters for each in samples))


def _summary(
    variant: Variant,
    pooled: Sequence[Stats],
    *,
    n_prompts: int,
    references: Mapping[str, Sequence[Sequence[Stats]]],
    n_late: int,
    identical: bool | None,
) -> Summary:
    return Summary(
        variant=variant,
        stats=median_stats(pooled),
        samples_ts=tuple(each.tokens_per_s for each in pooled),
        samples_ns=tuple(round(1e6 * each.decode_ms) for each in pooled),
        n_prompts=n_prompts,
        speedup=speedup(pooled, references["iterative"]),
        speedup_over_speculative=speedup(pooled, references["speculative"]),
        n_late=n_late,
        identical=identical,
    )


def speedup(pooled: Sequence[Stats], references: Sequence[Sequence[Stats]]) -> float | None:
    """Over the fastest of the references: the median of the ratios within a repetition.

    A repetition's requests were close in time, so that what slows the machine down for a while
    slows both. None if there is nothing to compare with.
    """
    rates = [each.tokens_per_s for each in pooled]
    candidates = [[stats.tokens_per_s for stats in each] for each in references]
    if not candidates:
        return None
    best = max(candidates, key=median)
    ratios = [ours / theirs for ours, theirs in zip(rates, best, strict=True) if theirs > 0]
    return median(ratios) if ratios else None


def median_stats(several: Sequence[Stats]) -> Stats:
    """Each number the median; of tuples, element by element."""
    values: dict[str, Any] = {}
    for item in fields(Stats):
        column = [getattr(each, item.name) for each in several]
        if isinstance(column[0], tuple):
            values[item.name] = tuple(map(median, zip_longest(*column, fillvalue=0.0)))
        elif isinstance(column[0], str):
            values[item.name] = column[0]
        else:
            middle = median(column)
            values[item.name] = round(middle) if isinstance(column[0], int) else middle
    return Stats(**values)


def _truths(group: BenchGroup, samples: Sequence[Sample]) -> dict[int, tuple[int, ...]]:
    """The token ids of plain decoding, by prompt."""
    truths: dict[int, tuple[int, ...]] = {}
    for each in samples:
        is_plain = each.variant == PLAIN or (
            each.repetition != WARMUP and group.variants[each.variant].strategy == "iterative"
        )
        if is_plain:
            truths.setdefault(each.prompt, each.tokens)
    return truths


def _is_identical(samples: Sequence[Sample], truths: Mapping[int, tuple[int, ...]]) -> bool | None:
    known = [each for each in samples if each.prompt in truths]
    return all(each.tokens == truths[each.prompt] for each in known) if known else None
