"""Costs as lists: what is planned with, and how they grow with what is seen."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeinfer_cli.scheduler.costs.measured import (
    LARGEST,
    N_FIRST,
    REVIEW_EVERY,
    MeasuredCosts,
    PriorCosts,
    line_through,
    not_falling,
    times_to,
    to_twice,
)
from pipeinfer_cli.scheduler.runs import RunStatus
from scripted import stage_times

N_STAGES = 4
seconds = st.floats(1e-6, 10)
by_size = st.dictionaries(st.integers(1, 40), st.tuples(seconds, seconds), min_size=1, max_size=8)


@given(known=by_size, largest=st.integers(1, 40), which=st.sampled_from([0, 1]))
def test_tables_never_fall_and_end_at_twice_what_was_seen(known, largest, which):
    found = to_twice(known, largest, which, {})
    assert found[0] == 0 < found[1]
    assert all(a <= b * (1 + 1e-12) for a, b in pairwise(found)), "but for rounding"
    assert len(found) == 1 + min(largest, 2 * max(known))


@given(runs=by_size)
def test_times_go_through_what_was_seen_unless_they_would_fall(runs):
    found = times_to(runs, 40, 0)
    sizes = sorted(runs)
    points = [runs[size][0] for size in sizes]
    if points == sorted(points):
        assert [found[size] for size in sizes] == pytest.approx(points)
    for size in sizes:
        assert min(points) * (1 - 1e-9) <= found[size] <= max(points) * (1 + 1e-9)


@given(
    values=st.lists(st.tuples(st.floats(0, 100), st.integers(1, 20)), min_size=1, max_size=12),
    others=st.lists(st.floats(0, 100), min_size=12, max_size=12).map(sorted),
)
def test_no_values_that_do_not_fall_are_closer(values, others):
    """By weighted squares; what falls is replaced by its mean."""
    wanted, weights = zip(*values, strict=True)
    found = not_falling(wanted, weights)
    assert len(found) == len(values)
    assert all(a <= b + 1e-9 for a, b in pairwise(found))

    def distance(tried):
        return sum(w * (a - b) ** 2 for a, b, w in zip(wanted, tried, weights, strict=False))

    assert distance(found) <= distance(others) * (1 + 1e-9) + 1e-9
    total = sum(w * each for each, w in zip(found, weights, strict=True))
    assert total == pytest.approx(sum(w * each for each, w in values), abs=1e-6)


def lengths_tried(times_of_table, use, n_tables=8):
    """Of the table, each time that its largest size has been used until the next review."""
    lengths = []
    for _ in range(n_tables):
        size = len(times_of_table()) - 1
        lengths.append(size)
        for _ in range(REVIEW_EVERY):
            use(size)
    return lengths


def test_larger_runs_are_tried_step_by_step():
    """Each time that all sizes of the table have been used, it has twice as many."""
    costs = MeasuredCosts(n_stages=N_STAGES)
    lengths = lengths_tried(
        lambda: costs.table.interval_s,
        lambda size: costs.on_run(size, stage_times(0.01, N_STAGES)),
    )
    assert lengths == [2, 4, 8, 16, 32, 32, 32, 32]


def test_larger_batches_of_drafts_are_tried_step_by_step():
    costs = MeasuredCosts(n_stages=N_STAGES)
    lengths = lengths_tried(lambda: costs.table.draft_s, lambda size: costs.on_draft(0.001, size))
    assert lengths == [1, 2, 4, 8, 16, 32, 32, 32]


def test_while_nothing_is_known_stages_are_equal_and_drafts_free():
    table = MeasuredCosts(n_stages=N_STAGES).table
    assert table.interval_s[1] == 1
    assert table.compute_s[1] == N_STAGES
    assert table.draft_s == [0.0, 0.0]


def test_a_calibration_needs_no_steps():
    prior = PriorCosts(by_size={1: (0.01, 0.04), 32: (0.02, 0.08)}, draft_s=0.002)
    table = MeasuredCosts(prior).table
    assert len(table.interval_s) == len(table.compute_s) == LARGEST + 1
    assert table.interval_s[32] == pytest.approx(0.02)
    assert table.draft_s[1] == pytest.approx(0.002)


def test_the_first_measurements_are_used_at_once_and_later_ones_after_some():
    costs = MeasuredCosts()
    for size in range(1, N_FIRST + 1):
        costs.on_run(size, stage_times(0.01 * size, N_STAGES))
        assert costs.table.interval_s[size] == pytest.approx(0.01 * size)
    table = costs.table
    costs.on_run(2, stage_times(0.021, N_STAGES))
    assert costs.table is table
    for _ in range(REVIEW_EVERY):
        costs.on_run(2, stage_times(0.021, N_STAGES))
    assert costs.table.interval_s[2] == pytest.approx(0.021, rel=0.02)


def test_an_outlier_counts_for_twice_what_is_usual():
    costs = MeasuredCosts()
    for _ in range(N_FIRST):
        costs.on_run(1, stage_times(0.01, N_STAGES))
    costs.on_run(1, stage_times(10.0, N_STAGES))
    for _ in range(REVIEW_EVERY):
        costs.on_run(1, stage_times(0.01, N_STAGES))
    assert costs.interval_s(1) < 0.011


def table_after(sizes, *, pause_at):
    """T(k) = 30 + 8k ms, seen by a stage alone; the run of one size takes half as long again."""
    costs = MeasuredCosts()
    for size in sizes:
        takes_s = 0.030 + 0.008 * size
        costs.on_run(size, stage_times(1.5 * takes_s if size == pause_at else takes_s, 1))
    return costs.table.compute_s


@pytest.mark.parametrize("pause_at", [1, 3, 9])
def test_a_pause_of_a_stage_alone_hardly_makes_a_size_dear(pause_at):
    found = table_after([1, 2, 3, 5, 9], pause_at=pause_at)
    for size in (1, 2, 3, 5, 9):
        assert found[size] == pytest.approx(0.030 + 0.008 * size, rel=0.2)


def test_a_step_that_was_seen_often_is_believed():
    costs = MeasuredCosts()
    for _ in range(40):
        for size in (1, 2, 4, 5, 8):
            costs.on_run(size, stage_times(0.01 if size < 5 else 0.02, 1))
    assert costs.table.compute_s[4] == pytest.approx(0.01, rel=0.1)
    assert costs.table.compute_s[5] == pytest.approx(0.02, rel=0.1)


@given(
    height=st.floats(0, 10),
    slope=st.floats(0, 1),
    sizes=st.sets(st.integers(1, 32), min_size=5, max_size=12),
    wild_s=st.floats(0, 100),
)
def test_a_wild_point_does_not_move_the_line(height, slope, sizes, wild_s):
    points = [(size, height + slope * size) for size in sorted(sizes)]
    points[len(points) // 2] = (points[len(points) // 2][0], wild_s)
    found = line_through(points)
    assert found == pytest.approx((height, slope), abs=1e-6)


@pytest.mark.parametrize("status", [RunStatus.CANCELLED, RunStatus.ABORTED])
def test_runs_that_were_wantedup_say_nothing(status):
    costs = MeasuredCosts(n_stages=N_STAGES)
    costs.on_run(1, stage_times(0.01, N_STAGES, status))
    costs.on_run(1, ())
    assert not costs.is_known


def test_each_of_several_drafters_has_its_own_times() -> None:
    costs = MeasuredCosts(PriorCosts(by_size={1: (0.01, 0.03)}, draft_s=0.004))
    assert costs.draft_s == pytest.approx(0.004)
    costs.change_drafter("ngram", has_prior=False)
    assert costs.draft_s == 0, "the prior is a draft model's"
    costs.on_draft(0.0001, 1, "ngram")
    assert costs.draft_s == costs.table.draft_s[1] == pytest.approx(0.0001)
    costs.change_drafter("model", has_prior=True)
    assert costs.draft_s == costs.table.draft_s[1] == pytest.approx(0.004)
    costs.on_draft(0.0003, 1, "ngram")  # it was asked before the change
    assert costs.draft_s == pytest.approx(0.004)
