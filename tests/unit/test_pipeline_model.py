"""The simulated pipeline: by hand, and against the same thing event by event."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_pipeline import EventPipeline
from pipeinfer_cli.cluster.pipeline_model import SimulatedPipeline
from pipeinfer_cli.cluster.profile import Link, Profile, StageCurve, assumed_draft
from pipeinfer_cli.scheduler.runs import Run, RunToken

LINK = Link(latency_us=1000, gbit_per_s=0.008)  # 1 ms, and 1 ms for 1000 bytes


def profile(*token_ms, link=LINK):
    stages = tuple(StageCurve.line(base_ms=0, token_ms=ms) for ms in token_ms)
    return Profile(
        name="test",
        stages=stages,
        links=(link,) * len(stages),
        result_link=link,
        hidden_bytes=1000,
        draft=assumed_draft(stages[0], 1),
    )


def run(run_id, n_tokens):
    return Run(
        run_id=run_id, tokens=tuple(RunToken(id=0, position=i, want=True) for i in range(n_tokens))
    )


def results_ms(pipeline, n):
    return [1000 * pipeline.take_first().end_s[-1] for _ in range(n)]


def test_one_run_takes_the_sum() -> None:
    pipeline = SimulatedPipeline(profile(10, 20))
    pipeline.submit(run(1, 2), 0.5)
    first = pipeline.take_first()
    # Link, 2 x 10; link and 2 x 1000 bytes, 2 x 20; link. Token ids weigh nothing.
    assert first.end_s == pytest.approx([0.521, 0.564, 0.565])
    assert first.start_s[:2] == pytest.approx([0.501, 0.524])


def test_runs_wait_for_stages_and_links() -> None:
    pipeline = SimulatedPipeline(profile(10, 20))
    for run_id in (1, 2, 3):
        pipeline.submit(run(run_id, 1), 0.0)
    # Through stage 1 at 11 + 2 + 20, then every 20.
    assert results_ms(pipeline, 3) == pytest.approx([34, 54, 74])
    narrow = SimulatedPipeline(profile(1, 1, link=Link(latency_us=1, gbit_per_s=0.0008)))
    narrow.submit(run(1, 1), 0.0)
    narrow.submit(run(2, 1), 0.0)  # 10 ms on the link for each
    first, second = results_ms(narrow, 2)
    assert second - first == pytest.approx(10)


def test_cancel_frees_the_stage_when_it_arrives() -> None:
    pipeline = SimulatedPipeline(profile(100))
    pipeline.submit(run(1, 1), 0.0)
    pipeline.submit(run(2, 1), 0.0)
    pipeline.cancel(1, 1, 0.050)  # arrives at 51
    assert pipeline.next_result_s() == pytest.approx(0.052)
    first = pipeline.take_first()
    assert first.given_up_at == 0
    assert first.is_aborted
    assert results_ms(pipeline, 1) == pytest.approx([51 + 100 + 1])
    assert pipeline.busy_s(1.0) == pytest.approx([0.050 + 0.100])


def test_cancelled_run_travels_as_a_header() -> None:
    pipeline = SimulatedPipeline(profile(10, 10, 10))
    pipeline.submit(run(1, 1), 0.0)
    pipeline.submit(run(2, 1), 0.0)
    pipeline.cancel(2, 2, 0.005)  # arrives at 6: run 1 computes at stage 0, run 2 waits
    first, second = pipeline.take_first(), pipeline.take_first()
    assert first.given_up_at is None
    assert first.end_s == pytest.approx([0.011, 0.023, 0.035, 0.036])
    # Not before run 1 at any place, and after it at once: no bytes, no compute.
    assert second.given_up_at == 0
    assert not second.is_aborted
    assert second.end_s == pytest.approx([0.011, 0.023, 0.035, 0.036])


def test_late_cancel_changes_nothing() -> None:
    pipeline = SimulatedPipeline(profile(10, 10))
    pipeline.submit(run(1, 1), 0.0)
    pipeline.cancel(1, 1, 0.023)  # at stage 1 at 24; it was through at 23
    assert pipeline.take_first().given_up_at is None


@st.composite
def histories(draw):
    """Times in ms that differ by more than rounding, so that no two things happen at once."""
    n_stages = draw(st.integers(1, 4))
    token_ms = [draw(st.integers(1, 9)) + 0.0131 * i for i in range(n_stages)]
    events, time_ms, n_runs, n_given_up = [], 0.0, 0, 0
    for index in range(draw(st.integers(1, 12))):
        time_ms += draw(st.integers(0, 30)) + 0.000717 * (index + 1)
        if n_runs > n_given_up and draw(st.integers(0, 3)) == 0:
            first = draw(st.integers(n_given_up + 1, n_runs))
            n_given_up = draw(st.integers(first, n_runs))
            events.append((time_ms, "cancel", first, n_given_up))
        else:
            n_runs += 1
            events.append((time_ms, "submit", n_runs, draw(st.integers(1, 4))))
    return profile(*token_ms), events, n_runs


@given(histories())
def test_same_as_event_by_event(history) -> None:
    cluster, events, n_runs = history
    plain = EventPipeline(cluster)
    for time_ms, kind, first, second in events:
        (plain.submit_at if kind == "submit" else plain.cancel_at)(time_ms / 1000, first, second)
    plain.run_until(n_runs)

    pipeline, found = SimulatedPipeline(cluster), []
    for time_ms, kind, first, second in events:
        while (next_s := pipeline.next_result_s()) is not None and next_s < time_ms / 1000:
            found.append(pipeline.take_first())
        if kind == "submit":
            pipeline.submit(run(first, second), time_ms / 1000)
        else:
            pipeline.cancel(first, second, time_ms / 1000)
    while pipeline.next_result_s() is not None:
        found.append(pipeline.take_first())

    assert [each.run.run_id for each in found] == list(range(1, n_runs + 1))
    for each in found:
        time_s, is_cancelled = plain.results[each.run.run_id]
        assert each.end_s[-1] == pytest.approx(time_s, abs=1e-12)
        assert (each.given_up_at is not None) == is_cancelled
    end_s = found[-1].end_s[-1]
    assert pipeline.busy_s(end_s) == pytest.approx([stage.busy_s for stage in plain.stages])
