"""Recordings on a virtual clock, and the traces that are made of them."""

import dataclasses
import json
import random

import pytest

from pipeinfer_cli.errors import RunError
from pipeinfer_cli.scheduler.interfaces import DraftBatch
from pipeinfer_cli.scheduler.metrics import RequestInfo, measure
from pipeinfer_cli.scheduler.policy import DEFAULT_DRAFT
from pipeinfer_cli.scheduler.runs import Result, Run, RunStatus, RunToken
from pipeinfer_cli.trace import chrome
from pipeinfer_cli.trace.recorder import Recorder, TimedDrafter
from pipeinfer_cli.trace.timeline import Outcome, lanes, stage_offsets, timeline
from trace_check import check_agrees, check_format, load, overlaps, slices, stage_rows
from virtual_cluster import FIXED, VirtualCluster, generate

N_TOKENS = 40
WAYS = [  # strategies, and how they draft
    ("iterative", FIXED),
    ("speculative", FIXED),
    ("speculative", DEFAULT_DRAFT),
    ("pipeinfer", FIXED),
    ("pipeinfer", DEFAULT_DRAFT),
]


def some_wrong(chance, seed=1):
    dice = random.Random(seed)
    return [position for position in range(3, 200) if dice.random() < chance]


def recorded(n_stages=3, strategy="pipeinfer", chance=0.2, draft=FIXED, **costs):
    cluster = VirtualCluster(n_stages, **costs)
    tokens, counters, recorder = generate(
        cluster, n_tokens=N_TOKENS, strategy=strategy, wrong=some_wrong(chance), draft=draft
    )
    assert tokens == list(range(3, 3 + N_TOKENS))
    recording = recorder.recording()
    times_s = recording.decided_s[:N_TOKENS]
    info = RequestInfo(strategy=strategy, n_ranks=n_stages + 1, n_stages=n_stages, n_prompt=3)
    return recording, measure(info, recording.start_s, times_s, counters)


@pytest.mark.parametrize(("strategy", "draft"), WAYS)
@pytest.mark.parametrize("n_stages", [1, 3, 12])
@pytest.mark.parametrize("chance", [0.0, 0.3, 1.0])
def test_the_trace_keeps_to_the_format_and_agrees_with_the_stats(
    strategy, draft, n_stages, chance, tmp_path
):
    recording, stats = recorded(n_stages, strategy, chance, draft)
    path = tmp_path / "trace.json"
    chrome.write(timeline(recording), path, stats.as_dict())
    trace = load(path)
    check_format(trace)
    check_agrees(trace, stats.as_dict())
    assert trace["otherData"]["strategy"] == strategy
    assert trace["otherData"]["clocks"] == "one"


@pytest.mark.parametrize("draft", [FIXED, DEFAULT_DRAFT])
def test_outcomes_and_cancels_of_asynchronous_speculation(draft):
    recording, _ = recorded(4, chance=0.3, draft=draft)
    drawn = timeline(recording)
    outcomes = {span.outcome for span in drawn.spans}
    assert outcomes == set(Outcome)
    for effect in drawn.effects:
        assert effect.span.outcome is Outcome.ABORTED
        assert effect.span.begin_s <= effect.span.end_s
        assert effect.sent_s <= effect.span.end_s
    n_aborted = sum(span.outcome is Outcome.ABORTED for span in drawn.spans)
    assert len(drawn.effects) == n_aborted > 0


def test_moments_of_overlap_are_found_where_they_are_and_nowhere_else():
    busy = chrome.as_trace(timeline(recorded(2, chance=0.3, draft_us=7000)[0]), {})
    assert overlaps(busy)
    for at_us, line in overlaps(busy):
        assert all(any(e["ts"] <= at_us <= e["ts"] + e["dur"] for e in r) for r in stage_rows(busy))
        assert "aborted" in line
    assert not overlaps(chrome.as_trace(timeline(recorded(2, "speculative")[0]), {}))


def test_plain_runs_have_no_speculation_and_no_drafts():
    recording, _ = recorded(strategy="iterative")
    assert not recording.drafts
    assert not recording.cancels
    assert all(record.n_speculative == record.n_accepted == 0 for record in recording.runs)
    spans = timeline(recording).spans
    assert {span.outcome for span in spans} == {Outcome.PREFILL, Outcome.ACCEPTED}
    assert all(span.n_right == span.n_tokens for span in spans)


def test_what_is_recorded_of_a_partly_right_run():
    recorder = Recorder(n_prompt=2, n_stages=1, clock=lambda: 5.0)
    tokens = [(1, 1), (7, 2), (8, 3), (9, 4)]  # the last of the prompt, and three drafted ones
    run = Run(run_id=1, tokens=tuple(RunToken(id=i, position=p, want=True) for i, p in tokens))
    recorder.on_submit(run)
    result = Result(run_id=1, status=RunStatus.COMPLETED, rows=(7, 8, 5, 6), times=())
    recorder.on_result(result, [7, 8, 5], 2)
    (record,) = recorder.recording().runs
    assert (record.n_prefill, record.n_speculative) == (1, 3)
    assert record.decided == (7, 8, 5)
    assert record.n_accepted == 2
    assert recorder.recording().decided_s == (5.0,) * 3


def test_the_last_of_a_recording_can_be_asked_for():
    recorder = Recorder(n_prompt=1, n_stages=1, clock=lambda: 0.0)
    for run_id in range(1, 6):
        recorder.on_submit(Run(run_id=run_id))
        recorder.on_cancel(run_id, run_id)
        recorder.on_drafted(float(run_id), run_id + 0.5)
    recording = recorder.recording(2)
    assert [each.run.run_id for each in recording.runs] == [4, 5]
    assert [each.run_last for each in recording.cancels] == [4, 5]
    assert [each.begin_s for each in recording.drafts] == [4.0, 5.0]
    assert len(recorder.recording().runs) == 5


def test_a_watched_drafter_answers_the_same():
    class Drafter:
        def expand(self, batch, is_wanted):
            return [[(7, 0.5)]] * len(batch.branches) if is_wanted() else None

    clock = iter(range(100))
    intervals = []
    watched = TimedDrafter(
        Drafter(), lambda *interval: intervals.append(interval), lambda: next(clock)
    )
    batch = DraftBatch(1, [4, 5], 2, ((), (6,)), 1)
    assert watched.expand(batch, lambda: True) == [[(7, 0.5)]] * 2
    assert watched.expand(batch, lambda: False) is None
    assert intervals == [(0, 1)]


def on_other_clocks(recording, offsets_us, *, within=False):
    """The recording as hosts with other clocks would tell it."""

    def moved(result):
        times = [
            dataclasses.replace(
                time,
                start_us=time.start_us + offsets_us[time.stage],
                in_bytes=0 if within and time.stage == 0 else time.in_bytes,
            )
            for time in result.times
        ]
        return dataclasses.replace(result, times=tuple(times))

    runs = [
        dataclasses.replace(each, result=moved(each.result) if each.result else None)
        for each in recording.runs
    ]
    return dataclasses.replace(recording, runs=tuple(runs))


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("hop_us", [0, 100])
def test_clocks_of_other_hosts_are_estimated(within, hop_us):
    recording, stats = recorded(3, hop_us=hop_us)
    assert stage_offsets(recording) == (0.0, 0.0, 0.0)
    assert not timeline(recording).is_estimated
    offsets_us = [0 if within else 5_000_000, -123_456_789, 77_000]
    moved = on_other_clocks(recording, offsets_us, within=within)
    # all hops take equally long here: but for rounding, the estimate is exact
    for offset_s, offset_us in zip(stage_offsets(moved), offsets_us, strict=True):
        assert offset_s == pytest.approx(-offset_us / 1e6, abs=2e-5 + within * hop_us / 1e6)
    drawn = timeline(moved)
    assert drawn.is_estimated
    trace = json.loads(json.dumps(chrome.as_trace(drawn, {})))
    check_format(trace)
    assert "estimate" in trace["otherData"]["clocks"]
    assert len(slices(trace, "stage")) == sum(len(row) for row in stage_rows(trace))
    assert stats.n_generated == N_TOKENS


def test_an_empty_recording_is_an_empty_trace():
    recording = Recorder(n_prompt=1, n_stages=2).recording()
    trace = chrome.as_trace(timeline(recording), {})
    check_format(trace)
    assert not slices(trace)


def test_lanes_keep_spans_apart():
    assert lanes([(0, 10), (1, 2), (3, 4), (5, 12), (10, 11)]) == [0, 1, 1, 1, 0]
    assert lanes([]) == []


def test_a_trace_that_cannot_be_written_is_a_run_error(tmp_path):
    recording, _ = recorded()
    with pytest.raises(RunError, match="cannot write the trace"):
        chrome.write(timeline(recording), tmp_path, {})


def spoilt(trace, ph, change):
    """The trace with the last event of this phase changed."""
    trace = json.loads(json.dumps(trace))
    change(next(e for e in reversed(trace["traceEvents"]) if e["ph"] == ph))
    return trace


@pytest.mark.parametrize(
    ("ph", "change"),
    [
        ("X", {"ts": -1.0}),
        ("X", {"cname": "blue"}),
        ("X", {"tid": 12345}),
        ("X", {"dur": -1.0}),
        ("i", {"s": "row"}),
        ("f", {"ts": 1.0}),
        ("f", {"id": 999}),
        ("f", {"bp": "s"}),
        ("s", {"tid": 3}),
        ("C", {"ph": "B"}),
    ],
)
def test_the_check_of_the_format_sees_what_is_wrong(ph, change):
    trace = chrome.as_trace(timeline(recorded(2, chance=0.3)[0]), {})
    check_format(trace)
    with pytest.raises((AssertionError, ValueError)):
        check_format(spoilt(trace, ph, lambda event: event.update(change)))


def test_the_check_of_the_format_sees_slices_that_overlap():
    trace = chrome.as_trace(timeline(recorded(2)[0]), {})
    first, second, *_ = stage_rows(trace)[0]
    first["dur"] = second["ts"] - first["ts"] + 1
    with pytest.raises(AssertionError):
        check_format(trace)
