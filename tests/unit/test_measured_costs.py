"""Costs as lists: what is planned with, and how they grow with what is seen."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeinfer_cli.scheduler.costs.measured import (
    REVIEW_EVERY,
    CostTable,
    MeasuredCosts,
    PriorCosts,
    times_to,
)
from pipeinfer_cli.scheduler.runs import RunStatus
from scripted import stage_times

N_STAGES = 4
LARGEST = 32
seconds = st.floats(1e-6, 10)
by_size = st.dictionaries(st.integers(1, 40), st.tuples(seconds, seconds), min_size=1, max_size=8)


@given(runs=by_size, drafts=by_size | st.just({}), largest=st.integers(1, 40))
def test_tables_never_fall_and_end_at_twice_what_was_seen(runs, drafts, largest):
    table = CostTable(runs, drafts, largest)
    for seen, each in (
        (runs, table.interval_s),
        (runs, table.compute_s),
        (drafts, table.draft_s),
    ):
        assert each[0] == 0
        assert all(a <= b * (1 + 1e-12) for a, b in pairwise(each)), "but for rounding"
        assert len(each) == 1 + min(largest, 2 * max(seen, default=0) or 1)
    assert len(table.interval_s) == len(table.compute_s)
    assert table.interval_s[1] > 0


@given(runs=by_size, largest=st.integers(1, 40))
def test_times_go_through_what_was_seen_unless_they_would_fall(runs, largest):
    found = times_to(runs, largest, 0)
    assert len(found) >= largest + 1
    for size, (time_s, _) in runs.items():
        if size < len(found):
            most_s = max(s for n, (s, _) in runs.items() if n <= size)
            assert found[size] == pytest.approx(most_s)
            assert found[size] >= time_s * (1 - 1e-9)


def test_larger_runs_are_tried_step_by_step():
    """Each time that all sizes of the table have been used, it has twice as many."""
    costs, lengths = MeasuredCosts(), []
    for _ in range(8):
        size = len(costs.table(LARGEST, N_STAGES).interval_s) - 1
        lengths.append(size)
        for _ in range(REVIEW_EVERY):
            costs.on_run(size, stage_times(0.01, N_STAGES))
    assert lengths == [2, 4, 8, 16, 32, 32, 32, 32]


def test_larger_batches_of_drafts_are_tried_step_by_step():
    costs, lengths = MeasuredCosts(), []
    for _ in range(7):
        size = len(costs.table(LARGEST, N_STAGES).draft_s) - 1
        lengths.append(size)
        for _ in range(REVIEW_EVERY):
            costs.on_draft(0.001, size)
    assert lengths == [1, 2, 4, 8, 16, 32, 32]


def test_while_nothing_is_known_stages_are_equal_and_drafts_free():
    table = MeasuredCosts().table(LARGEST, N_STAGES)
    assert table.interval_s[1] == 1
    assert table.compute_s[1] == N_STAGES
    assert table.draft_s == [0.0, 0.0]


def test_a_calibration_needs_no_steps():
    prior = PriorCosts(by_size={1: (0.01, 0.04), 32: (0.02, 0.08)}, draft_s=0.002)
    table = MeasuredCosts(prior).table(LARGEST, N_STAGES)
    assert len(table.interval_s) == len(table.compute_s) == LARGEST + 1
    assert table.interval_s[32] == pytest.approx(0.02)
    assert table.draft_s[1] == pytest.approx(0.002)


def test_the_first_measurement_is_used_at_once_and_later_ones_after_some():
    costs = MeasuredCosts()
    costs.table(LARGEST, N_STAGES)
    costs.on_run(1, stage_times(0.01, N_STAGES))
    table = costs.table(LARGEST, N_STAGES)
    assert table.interval_s[1] == pytest.approx(0.01)
    costs.on_run(2, stage_times(0.05, N_STAGES))
    assert costs.table(LARGEST, N_STAGES) is table
    for _ in range(REVIEW_EVERY):
        costs.on_run(2, stage_times(0.05, N_STAGES))
    assert costs.table(LARGEST, N_STAGES).interval_s[2] == pytest.approx(0.05)


@pytest.mark.parametrize("status", [RunStatus.CANCELLED, RunStatus.ABORTED])
def test_runs_that_were_given_up_say_nothing(status):
    costs = MeasuredCosts()
    costs.on_run(1, stage_times(0.01, N_STAGES, status))
    costs.on_run(1, ())
    assert not costs.is_known
