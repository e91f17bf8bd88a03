"""How many nodes to feed and to draft: closed forms against examples and all other numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeinfer_cli.scheduler.speculation.planning import (
    N_AHEAD,
    RunWorth,
    best_batch,
    best_round_size,
    further_s,
    usual_size,
    waiting_s,
)

N = 32
FLAT = [0.0] + [1.0] * N
LINEAR = [float(n) for n in range(N + 1)]
STEP = [0.0] + [1.0] * 4 + [2.0] * (N - 4)  # four tokens for the price of one

probabilities = st.lists(st.floats(0, 1), max_size=N).map(lambda found: sorted(found)[::-1])


@st.composite
def times(draw):
    """T(0) = 0, T(1) > 0, and never falling."""
    steps = draw(st.lists(st.floats(0, 1), min_size=2, max_size=N))
    found = [0.0, draw(st.floats(0.01, 1))]
    for step in steps:
        found.append(found[-1] + step)
    return found


def in_all_stages(interval_s, n_stages):
    return [n_stages * each for each in interval_s]


def worth_of(interval_s, n_stages=4, *, wait_s=None, usual=None, n_seen=None):
    """Without `usual`, the latest verdict costs nothing; without `n_seen`, all sizes are known."""
    n_most = len(interval_s) - 1
    return RunWorth(
        interval_s=interval_s,
        compute_s=in_all_stages(interval_s, n_stages),
        wait_s=interval_s[1] if wait_s is None else wait_s,
        usual=usual or n_most,
        n_seen=n_seen or n_most,
    )


def path(rate, n=N):
    """A chain whose tokens are right with this rate."""
    return [rate**i for i in range(1, n + 1)]


@pytest.mark.parametrize("n_decided", [0, 1])
@pytest.mark.parametrize("costs", [FLAT, LINEAR, STEP])
def test_without_drafted_nodes_none_are_fed(costs, n_decided):
    assert worth_of(costs).best_size([], n_decided) == 0


@pytest.mark.parametrize("n_decided", [0, 1])
def test_runs_that_cost_the_same_take_all_that_may_be_right(n_decided):
    worth = worth_of(FLAT)
    assert worth.best_size(path(0.5, 10), n_decided) == 10
    assert worth.best_size(path(0.99), n_decided) == N - n_decided, "no more than T(k) is known for"
    assert worth.best_size([0.9, 0.0, 0.0], n_decided) == 1, "the others bring nothing"


def test_runs_that_cost_by_the_token_take_one():
    worth = worth_of(LINEAR)
    assert worth.best_size(path(0.9), 0) == 1
    assert worth.best_size(path(0.9), 1) == 0


@pytest.mark.parametrize(("n_decided", "n_best"), [(0, 4), (1, 3)])
def test_what_costs_nothing_more_is_filled_up(n_decided, n_best):
    worth = worth_of(STEP)
    assert worth.best_size(path(0.5), n_decided) == n_best
    assert worth.best_size([0.9], n_decided) == 1


def test_a_stage_that_would_idle_gets_the_best_node_however_improbable():
    assert worth_of(LINEAR).best_size([0.001, 0.0005], 0) == 1
    assert worth_of(LINEAR).best_size([0.0], 0) == 1


SLOPE = [0.0] + [1.0 + 0.1 * n for n in range(N)]


def test_runs_larger_than_usual_hold_up_those_behind_them():
    unusual, usual = (worth_of(SLOPE, 8, usual=u).best_size(path(0.9), 1) for u in (4, N))
    assert unusual == 4 - 1
    assert usual > 2 * unusual
    one_stage = worth_of(SLOPE, 1, usual=4)
    assert one_stage.best_size(path(0.9), 1) == usual, "nothing is behind them"


def test_sizes_that_were_never_seen_are_tried():
    steep = [0.0] + [1.0] * 4 + [10.0] * (N - 4)
    assert worth_of(steep, 8, usual=4).best_size(path(0.9), 0) == 4
    assert worth_of(steep, 8, usual=4, n_seen=4).best_size(path(0.9), 0) == N


@given(
    nodes=probabilities,
    interval_s=times(),
    n_stages=st.integers(1, 64),
    n_decided=st.integers(0, 1),
    usual=st.integers(1, 2),
    share=st.floats(0, 1),
)
def test_no_size_near_is_worth_more(nodes, interval_s, n_stages, n_decided, usual, share):
    worth = worth_of(interval_s, n_stages, wait_s=share * interval_s[1], usual=usual)
    n_best = worth.best_size(nodes, n_decided)
    least = min(1 - n_decided, len(nodes))
    n_most = min(len(nodes), len(interval_s) - 1 - n_decided)
    assert least <= n_best <= n_most

    def seconds(n):
        size, mass = n + n_decided, n_decided + sum(nodes[:n])
        late_s = (n_stages - 1) * (interval_s[size] - interval_s[usual])
        return worth.wait_s * mass - interval_s[size] - max(late_s, 0.0) * min(mass, 1.0)

    for n in range(least, min(n_most, n_best + N_AHEAD) + 1):
        assert seconds(n) <= seconds(n_best) + 1e-9


@pytest.mark.parametrize("rate", [0.0, 0.5, 0.9, 1.0])
def test_the_usual_size_of_runs_that_cost_the_same_is_the_largest(rate):
    assert usual_size(FLAT, in_all_stages(FLAT, 8), rate) >= (N if 0 < rate < 1 else 1)
    assert usual_size(LINEAR, in_all_stages(LINEAR, 8), rate) == (N if rate == 1 else 1)


def test_the_usual_size_grows_with_good_drafts_and_falls_with_stages():
    def size(n_stages, rate):
        return usual_size(SLOPE, in_all_stages(SLOPE, n_stages), rate)

    assert [size(8, rate) for rate in (0.5, 0.66, 0.9, 0.97)] == [2, 2, 4, 6]
    assert [size(n_stages, 0.9) for n_stages in (2, 4, 8, 15, 64)] == [7, 5, 4, 3, 1]


def test_the_usual_size_uses_what_costs_nothing_more():
    assert usual_size(STEP, in_all_stages(STEP, 8), 0.9) == 4
    assert usual_size(STEP, in_all_stages(STEP, 8), 0.5) == 4


@pytest.mark.parametrize("nodes", [path(0.5), path(0.99), [1.0] * 8])
def test_a_drafter_of_unknown_cost_expands_one_node(nodes):
    assert best_batch(nodes, [0.0, 0.0]) == 1


def test_a_batch_that_costs_as_one_node_has_all_that_may_be_right():
    assert best_batch([0.9, 0.5, 0.1], FLAT) == 3
    assert best_batch([0.9, 0.5, 0.0], FLAT) == 2
    assert best_batch([1.0] * 40, FLAT) == N


def test_a_batch_that_costs_by_the_node_is_one_node():
    assert best_batch([1.0] * 8, LINEAR) == 1


@given(nodes=probabilities.filter(bool), draft_s=times())
def test_no_batch_brings_more(nodes, draft_s):
    n_best = best_batch(nodes, draft_s)
    n_most = min(len(nodes), len(draft_s) - 1)
    assert 1 <= n_best <= n_most
    rates = [sum(nodes[:n]) / draft_s[n] ** 2 for n in range(1, n_most + 1)]
    assert rates[n_best - 1] >= max(rates) * (1 - 1e-9)


def test_a_round_by_hand():
    """Ten seconds a run, one more for each token; half right: 1.5 tokens in 11 s, 1.75 in 12."""
    compute_s = [0.0] + [10.0 + n for n in range(N)]
    assert best_round_size(path(0.5), compute_s, 0.1) == 3  # 1/8 of a token is worth a second
    assert best_round_size(path(0.5), compute_s, 0.2) == 2
    assert best_round_size(path(0.5), compute_s, 0.6) == 0
    assert best_round_size([], compute_s, 0.1) == 0


@given(nodes=probabilities, compute_s=times(), tokens_per_s=st.floats(0, 100))
def test_no_round_brings_more_than_its_time_is_worth(nodes, compute_s, tokens_per_s):
    n_best = best_round_size(nodes, compute_s, tokens_per_s)
    n_most = min(len(nodes), len(compute_s) - 2)
    assert 0 <= n_best <= n_most
    worth = [sum(nodes[:n]) - tokens_per_s * compute_s[n + 1] for n in range(n_most + 1)]
    assert worth[n_best] >= max(worth) - 1e-9


@given(st.floats(1e-6, 10), st.floats(1e-6, 10))
def test_a_node_waits_no_longer_than_for_the_next_run(interval_s, token_s):
    found_s = waiting_s(interval_s, token_s)
    assert 0 < found_s <= min(interval_s, token_s)
    assert waiting_s(interval_s, None) == interval_s


@given(compute_s=times(), data=st.data())
def test_one_more_token_costs_the_least_of_all_ways_on(compute_s, data):
    n = data.draw(st.integers(1, len(compute_s) - 2))
    mean_s = [(compute_s[m] - compute_s[n]) / (m - n) for m in range(n + 1, len(compute_s))]
    assert further_s(compute_s, n) == min(mean_s)


def test_a_step_that_leads_to_cheap_tokens_is_taken():
    assert further_s(STEP, 4) == pytest.approx(1 / (N - 4))
    assert further_s(LINEAR, 4) == 1
