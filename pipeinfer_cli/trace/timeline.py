"""A recording on one clock: what each stage, link and the drafter did, when, with which outcome.

Stages tell the time of their own hosts. On one host that is the head's clock, too; for other hosts
the difference is estimated: the quickest messages of all hops, which go around from the head over
all stages and back, are taken to be equally quick. The error is less than the time they take.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from pipeinfer_cli.scheduler.runs import Result, RunStatus, StageTime
from pipeinfer_cli.trace.recorder import DraftRecord, Recording, RunRecord

SAME_CLOCK_S = 1e-4  # a message that seems to arrive earlier by more comes from another clock


class Outcome(enum.Enum):
    """What became of a stage's work on a run."""

    PREFILL = "prefill"
    ACCEPTED = "accepted"  # the run decided tokens; plain runs, without speculation, always do
    WRONG = "wrong"  # computed to the end, and in vain
    ABORTED = "aborted"  # given up in mid-compute
    CANCELLED = "cancelled"  # given up before


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpan:
    """A stage's work on a run."""

    run_id: int
    stage: int
    begin_s: float
    end_s: float
    outcome: Outcome
    n_tokens: int
    n_right: int  # of the tokens: now in the text, or of the prompt
    n_speculative: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """A run's way over a link: 0 leads from the head to the first stage, the last one back."""

    run_id: int
    link: int
    begin_s: float
    end_s: float
    n_bytes: int
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelEffect:
    """A cancel that met a stage in mid-compute."""

    sent_s: float
    span: StageSpan


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """All of a recording, in the head's time."""

    recording: Recording
    spans: tuple[StageSpan, ...]  # by run, then by stage
    transfers: tuple[Transfer, ...]
    effects: tuple[CancelEffect, ...]
    offsets_s: tuple[float, ...]  # by stage: added to its times; 0 on the head's host

    @property
    def is_estimated(self) -> bool:
        """True if some stage has another clock, so that its row is aligned by an estimate."""
        return any(self.offsets_s)

    @property
    def drafts(self) -> tuple[DraftRecord, ...]:
        """The drafter's work."""
        return self.recording.drafts


def timeline(recording: Recording) -> Timeline:
    """The recording on one clock."""
    offsets_s = stage_offsets(recording)
    spans: list[StageSpan] = []
    transfers: list[Transfer] = []
    for record, result in _answered(recording):
        of_run = [_span(record, time, offsets_s[time.stage]) for time in result.times]
        spans += of_run
        transfers += _transfers(record, result, of_run)
    return Timeline(
        recording=recording,
        spans=tuple(spans),
        transfers=tuple(transfers),
        effects=tuple(_effects(recording, spans)),
        offsets_s=offsets_s,
    )


def stage_offsets(recording: Recording) -> tuple[float, ...]:
    """Seconds to add to each stage's times, so that they are the head's."""
    hops_s = [hops(record, result) for record, result in _answered(recording)]
    if not hops_s:
        return (0.0,) * recording.n_stages
    quickest = [min(each) for each in zip(*hops_s, strict=True)]
    if min(quickest) > -SAME_CLOCK_S:
        return (0.0,) * recording.n_stages
    # A first stage within the head's process has its clock, and no hop before it.
    is_within = all(result.times[0].in_bytes == 0 for _, result in _answered(recording))
    known = [0.0] if is_within else []
    unknown = quickest[len(known) :]
    share_s = sum(unknown) / len(unknown)
    return (*known, *accumulate(share_s - hop_s for hop_s in unknown[:-1]))


def _answered(recording: Recording) -> Iterator[tuple[RunRecord, Result]]:
    for record in recording.runs:
        if record.result is not None and len(record.result.times) == recording.n_stages:
            yield record, record.result


def hops(record: RunRecord, result: Result) -> list[float]:
    """Seconds from leaving one process to arriving at the next, each by its own clock."""
    left_s = [record.submit_s, *(_end_s(time) for time in result.times)]
    arrived_s = [*(_arrival_s(time) for time in result.times), record.result_s]
    return [arrived - left for left, arrived in zip(left_s, arrived_s, strict=True)]


def _arrival_s(time: StageTime) -> float:
    return (time.start_us - time.wait_us) / 1e6


def _end_s(time: StageTime) -> float:
    return (time.start_us + time.compute_us) / 1e6


def _span(record: RunRecord, time: StageTime, offset_s: float) -> StageSpan:
    n_tokens = len(record.run.tokens)
    outcome = _outcome(record, time.status)
    return StageSpan(
        run_id=record.run.run_id,
        stage=time.stage,
        begin_s=time.start_us / 1e6 + offset_s,
        end_s=_end_s(time) + offset_s,
        outcome=outcome,
        n_tokens=n_tokens,
        n_right=n_tokens if outcome is Outcome.PREFILL else len(record.decided),
        n_speculative=record.n_speculative,
    )


def _outcome(record: RunRecord, status: RunStatus) -> Outcome:
    if status is RunStatus.ABORTED:
        return Outcome.ABORTED
    if status is RunStatus.CANCELLED:
        return Outcome.CANCELLED
    if record.n_prefill == len(record.run.tokens):
        return Outcome.PREFILL
    return Outcome.ACCEPTED if record.decided else Outcome.WRONG


def _transfers(record: RunRecord, result: Result, spans: list[StageSpan]) -> Iterator[Transfer]:
    left_s = [record.submit_s, *(span.end_s for span in spans)]
    arrived_s = [
        *(p.begin_s - t.wait_us / 1e6 for p, t in zip(spans, result.times, strict=True)),
        record.result_s,
    ]
    n_bytes = [*(time.in_bytes for time in result.times), result.in_bytes]
    outcomes = [spans[0].outcome, *(span.outcome for span in spans)]
    for link, begin_s in enumerate(left_s):
        if n_bytes[link] > 0:  # else it stayed in the process
            yield Transfer(
                run_id=record.run.run_id,
                link=link,
                begin_s=begin_s,
                end_s=max(begin_s, arrived_s[link]),
                n_bytes=n_bytes[link],
                outcome=outcomes[link],
            )


def _effects(recording: Recording, spans: list[StageSpan]) -> Iterator[CancelEffect]:
    for span in spans:
        if span.outcome is Outcome.ABORTED:
            sent = (c for c in recording.cancels if c.run_first <= span.run_id <= c.run_last)
            if (cancel := next(sent, None)) is not None:
                yield CancelEffect(sent_s=cancel.time_s, span=span)


def lanes(intervals: list[tuple[float, float]]) -> list[int]:
    """For each interval (in order of begin) the first row on which it overlaps no other."""
    ends_s: list[float] = []
    chosen = []
    for begin_s, end_s in intervals:
        lane = next((i for i, last_s in enumerate(ends_s) if last_s <= begin_s), len(ends_s))
        ends_s[lane : lane + 1] = [end_s]
        chosen.append(lane)
    return chosen
