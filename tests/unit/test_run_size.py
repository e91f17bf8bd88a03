"""How many tokens a run shall have, with and without knowing beforehand what runs cost."""

from itertools import count

import pytest

from pipeinfer_cli.scheduler.costs.measured import REVIEW_EVERY, MeasuredCosts, PriorCosts
from pipeinfer_cli.scheduler.costs.run_size import RunSizer, best_run_sizes
from pipeinfer_cli.scheduler.policy import DraftConfig, Policy
from pipeinfer_cli.scheduler.scheduler import Scheduler
from scripted import draft_next, stage_times, take_runs

SIZES = (1, 2, 4, 8, 16)
N_STAGES = 4


def prior(token_s, draft_s=0.0):
    """Stages that take 10 ms for a run, and so long for each token after the first."""
    stage_s = {size: 0.010 + token_s * (size - 1) for size in SIZES}
    return PriorCosts(
        by_size={size: (s, N_STAGES * s) for size, s in stage_s.items()}, draft_s=draft_s
    )


FLAT, STEEP = prior(0.0, draft_s=0.001), prior(0.010, draft_s=0.001)


def times(stage_s):
    return stage_times(stage_s, N_STAGES)


def test_a_prior_chooses_the_first_run_size() -> None:
    def first(known):
        return RunSizer(8, MeasuredCosts(known)).sizes.alone

    assert first(None) == 1
    assert first(FLAT) > 1
    assert first(STEEP) == 1
    assert first(prior(0.0)) == 1, "a drafter of unknown cost is measured first"


@pytest.mark.parametrize(
    ("n_stages", "draft_s", "waits"),
    [(1, 0.0001, True), (1, 0.1, False), (8, 0.0025, False)],
)
def test_a_decided_token_waits_for_drafts_with_few_stages_and_a_fast_drafter(
    n_stages, draft_s, waits
) -> None:
    by_size = {size: (0.01 * (9 + size) / 10, 0.01 * n_stages * (9 + size) / 10) for size in SIZES}
    costs = MeasuredCosts(PriorCosts(by_size=by_size, draft_s=draft_s))
    assert (best_run_sizes(costs, acceptance=0.7, largest=8).with_decided > 0) == waits


@pytest.mark.parametrize(
    ("slowest_s", "all_s", "link_s", "depth"),
    [
        (0.010, 0.040, 0.0, 5),  # four alike: one in each, and one that waits
        (0.010, 0.040, 0.001, 5),
        (0.010, 0.040, 0.005, 6),  # slow links hold one, too
        (0.010, 0.014, 0.0, 3),  # others are hardly ever at work
        (0.010, 0.012, 0.0, 2),
        (0.001, 0.004, 1.0, 9),  # links only: there is a limit
    ],
)
def test_the_depth_keeps_the_slowest_stage_at_work(slowest_s, all_s, link_s, depth) -> None:
    known = PriorCosts(by_size={1: (slowest_s, all_s)}, link_s=link_s)
    assert Policy.depth_of(N_STAGES, known) == depth
    assert Policy.of("auto", None, n_stages=N_STAGES, n_batch=32, prior=known).depth == depth
    assert Policy.depth_of(N_STAGES) == 5


def test_sizes_that_were_not_tried_cost_what_the_prior_says() -> None:
    """All that is seen are runs of one token, which are the same in all three cases."""
    found = []
    for each in (FLAT, None, STEEP):
        costs = MeasuredCosts(each)
        run_sizer = RunSizer(8, costs)
        for _ in range(REVIEW_EVERY):
            costs.on_draft(0.001)
            costs.on_run(1, times(0.010))
            run_sizer.on_run()
        found.append(run_sizer.sizes.alone)
    assert found[0] > 1
    assert found[0] >= found[1] > found[2] == 1


def test_between_and_beyond_its_sizes_a_prior_is_a_line() -> None:
    costs = MeasuredCosts(STEEP)
    assert costs.interval_s(3) == pytest.approx(0.030)
    assert costs.compute_s(8) == pytest.approx(N_STAGES * 0.080)
    assert costs.interval_s(20) > costs.interval_s(16)


def test_a_busier_machine_stretches_the_prior() -> None:
    costs = MeasuredCosts(STEEP)
    for _ in range(30):
        costs.on_run(1, times(0.020))
    assert costs.interval_s(8) == pytest.approx(2 * 0.080, rel=0.01)
    assert costs.compute_s(8) == pytest.approx(2 * N_STAGES * 0.080, rel=0.01)


def test_what_was_seen_counts_more_than_the_prior() -> None:
    costs = MeasuredCosts(FLAT)
    for _ in range(30):
        costs.on_run(1, times(0.010))
        costs.on_run(8, times(0.050))
    assert costs.interval_s(8) == pytest.approx(0.050, rel=0.02)  # of the last review
    assert costs.interval_s(1) == pytest.approx(0.010)


@pytest.mark.parametrize(("known", "n_first"), [(None, 1), (STEEP, 1), (FLAT, 0)])
def test_the_scheduler_waits_for_a_run_that_pays(known, n_first) -> None:
    policy = Policy.of(
        "pipeinfer", DraftConfig(n_max=8), n_stages=N_STAGES, n_batch=32, prior=known
    )
    scheduler = Scheduler((1, 2), n_max=50, policy=policy, run_ids=count(1))
    assert len(take_runs(scheduler)) == 1  # the prompt
    draft_next(scheduler, (7, 1.0))
    assert len(take_runs(scheduler)) == n_first
    for _ in range(7):
        draft_next(scheduler, (7, 1.0))
    sizes = [len(run.tokens) for run in take_runs(scheduler)]
    assert (max(sizes) > 1) == (n_first == 0)
