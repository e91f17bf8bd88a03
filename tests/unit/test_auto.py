import random
from statistics import median

import pytest

from pipeinfer_cli.scheduler.auto import AutoSpeculation, AutoSpeculationConfig


def shares(plain_tps, speculating_tps, n_tokens=4000, per_result=1):
    """The share of tokens made with speculation, and the whole rate, if the two ways have these."""
    auto, now_s, n_open = AutoSpeculation(), 0.0, 0
    for _ in range(n_tokens // per_result):
        now_s += per_result / (speculating_tps if auto.is_speculating else plain_tps)
        n_open += per_result * auto.is_speculating
        auto.on_tokens(per_result, now_s)
    return n_open / n_tokens, n_tokens / now_s


def test_it_begins_closed_and_opens_after_a_few_tokens():
    auto, seen = AutoSpeculation(), []
    for step in range(20):
        seen.append(auto.is_speculating)
        auto.on_tokens(1, float(step))
    n_closed = (
        AutoSpeculationConfig().n_start + 1
    )  # the clock starts at a token, which does not count
    assert seen == [False] * n_closed + [True] * (20 - n_closed)


@pytest.mark.parametrize("per_result", [1, 3])
def test_speculation_that_pays_stays(per_result):
    share, rate = shares(50, 100, per_result=per_result)
    assert share > 0.95
    assert rate > 95


@pytest.mark.parametrize(("speculating", "most"), [(10, 0.01), (25, 0.03), (40, 0.09)])
def test_speculation_that_does_not_pay_costs_little(speculating, most):
    share, rate = shares(50, speculating)
    assert share < most
    assert rate > 0.97 * 50
    assert shares(50, 40, n_tokens=200)[1] > 0.95 * 50


def relative_speed(speculating_tps, seed, *, noise=0.1, plain_tps=50, n_tokens=128):
    """Of a short text, over that of the better way, with times per token that scatter."""
    chance, auto, seconds, best_s = random.Random(seed), AutoSpeculation(), 0.0, 0.0
    for _ in range(n_tokens):
        scatter = max(0.3, chance.gauss(1, noise))
        seconds += scatter / (speculating_tps if auto.is_speculating else plain_tps)
        best_s += scatter / max(speculating_tps, plain_tps)
        auto.on_tokens(1, seconds)
    return best_s / seconds


@pytest.mark.parametrize("speculating", [30, 45, 55, 75, 100])
def test_short_texts_lose_little_where_times_scatter(speculating):
    ratios = sorted(relative_speed(speculating, seed) for seed in range(60))
    assert median(ratios) > 0.95
    assert ratios[6] > 0.93


def test_it_notices_a_change():
    auto, now_s = AutoSpeculation(AutoSpeculationConfig(n_hold_max=128)), 0.0
    for step in range(3000):
        speculating_tps = 20 if step < 1500 else 200
        now_s += 1 / (speculating_tps if auto.is_speculating else 50)
        auto.on_tokens(1, now_s)
        if step == 1499:
            assert not auto.is_speculating
    assert auto.is_speculating


def test_what_one_text_has_shown_holds_for_the_next():
    auto = AutoSpeculation()
    now_s = 0.0
    for _ in range(60):
        now_s += 0.3 if auto.is_speculating else 0.1
        auto.on_tokens(1, now_s)
    assert not auto.is_speculating
    auto.begin_text()
    now_s += 1000  # nobody has asked for anything
    for _ in range(16):
        now_s += 0.1
        auto.on_tokens(1, now_s)
        assert not auto.is_speculating
