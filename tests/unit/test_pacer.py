"""When the next run shall leave, as predicted from what was submitted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeinfer_cli.scheduler.costs.measured import MeasuredCosts, PriorCosts
from pipeinfer_cli.scheduler.costs.pacer import SLACK, StagePacer

LINE = PriorCosts(by_size={1: (0.01, 0.03), 32: (0.32, 0.96)})  # 10 ms for each token


def about(time_s):
    """As long as a result is waited for, more or less."""
    return pytest.approx(time_s, abs=0.01 * SLACK + 1e-9)


def pacer(prior=LINE):
    return StagePacer(MeasuredCosts(prior))


def test_without_runs_the_stage_is_free():
    assert pacer().leave_s == 0


def test_runs_follow_one_another_and_a_pause_is_not_made_up_for():
    runs = pacer()
    runs.on_submit(1, 1, 5.0)
    assert runs.leave_s == about(5.01)
    runs.on_submit(2, 3, 5.0)
    assert runs.leave_s == about(5.04)
    runs.on_submit(3, 1, 7.0)
    assert runs.leave_s == about(7.01)


def test_results_of_the_first_runs_leave_the_others_where_they_are():
    runs = pacer()
    for run_id in (1, 2, 3):
        runs.on_submit(run_id, 1, 1.0)
    runs.on_result(1, 1.0)
    assert runs.leave_s == about(1.03)
    runs.on_result(2, 1.0)
    runs.on_result(3, 1.0)
    assert runs.leave_s == 0
    runs.on_submit(4, 1, 1.01)
    assert runs.leave_s == about(1.02)


def test_what_is_given_up_at_the_end_frees_the_stage():
    runs = pacer()
    for run_id in range(1, 6):
        runs.on_submit(run_id, 1, 1.0)
    runs.on_cancel(3, 5)
    assert runs.leave_s == about(1.02)
    runs.on_cancel(1, 2)
    assert runs.leave_s == 0


def test_cancels_and_results_of_runs_that_are_gone_change_nothing():
    runs = pacer()
    runs.on_submit(1, 1, 1.0)
    runs.on_result(1, 1.0)
    runs.on_cancel(1, 1)
    runs.on_result(1, 1.0)
    assert runs.leave_s == 0


def test_runs_of_unknown_cost_hold_nothing_back():
    runs = pacer(None)
    runs.on_submit(1, 8, 3.0)
    runs.on_submit(2, 8, 3.5)
    assert runs.leave_s == 0


def test_a_run_waits_for_a_result_that_is_about_to_come():
    """Three stages of 10 ms: the first result is due when the third run is through the first."""
    runs = pacer()
    for run_id in (1, 2):
        runs.on_submit(run_id, 1, 1.0)
    assert runs.leave_s == pytest.approx(1.02), "it is not due for another 10 ms"
    runs.on_submit(3, 1, 1.0)
    assert runs.leave_s == pytest.approx(1.03 + 0.01 * SLACK)


def test_results_that_come_later_than_predicted_are_expected_later():
    runs = pacer()
    for run_id in range(1, 200):
        runs.on_submit(run_id, 1, float(run_id))
        runs.on_result(run_id, run_id + 0.04)  # 10 ms in links and head
    for run_id in range(200, 204):
        runs.on_submit(run_id, 1, 300.0)
    assert runs.leave_s == pytest.approx(300.04 + 0.01 * SLACK, abs=1e-5)


steps = st.lists(
    st.tuples(
        st.sampled_from(["submit", "submit", "result", "cancel"]),
        st.integers(1, 32),
        st.floats(0, 0.5),
    ),
    max_size=40,
)


@given(steps=steps)
def test_the_next_run_leaves_when_the_last_one_is_through(steps):
    """And nothing is kept of runs whose results have come."""
    runs, costs = pacer(), MeasuredCosts(LINE)
    slack_s = SLACK * costs.interval_s(1) + 1e-9
    now_s, in_flight, live, run_id = 0.0, [], [], 0
    for step, n, pause_s in steps:
        now_s += pause_s
        if step == "submit":
            run_id += 1
            before_s = runs.leave_s
            runs.on_submit(run_id, n, now_s)
            assert runs.leave_s >= now_s + costs.interval_s(n) - slack_s
            assert runs.leave_s >= before_s - slack_s
            in_flight.append(run_id)
            live.append(run_id)
        elif step == "result" and in_flight:
            first = in_flight.pop(0)
            live = [each for each in live if each != first]
            runs.on_result(first, now_s)
        elif step == "cancel" and live:
            first = live[max(0, len(live) - n)]
            before_s = runs.leave_s
            runs.on_cancel(first, live[-1])
            assert runs.leave_s <= before_s + 2 * slack_s
            live = [each for each in live if each < first]
        assert (runs.leave_s == 0) == (not live)
