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


DRAFTERS = ("model", "both", "ngram")


def ways(tps, n_tokens=4000, *, auto=None, start_s=0.0, noise=0.0, seed=0):
    """The share of tokens made in each way, and the whole rate, if the ways have these rates."""
    auto = auto or AutoSpeculation(drafters=DRAFTERS)
    chance, now_s, counts = random.Random(seed), start_s, dict.fromkeys(tps, 0)
    for _ in range(n_tokens):
        now_s += max(0.3, chance.gauss(1, noise)) / tps[auto.way]
        counts[auto.way] += 1
        auto.on_tokens(1, now_s)
    return {way: count / n_tokens for way, count in counts.items()}, n_tokens / (now_s - start_s)


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("best", DRAFTERS)
def test_the_best_drafter_stays(best, noise):
    tps = {None: 50, "model": 70, "both": 70, "ngram": 70, best: 100}
    shares_of, rate = ways(tps, noise=noise)
    assert shares_of[best] > 0.93
    assert rate > 0.96 * 100


def test_no_drafter_that_pays_costs_little():
    tps = {None: 50, "model": 30, "both": 40, "ngram": 45}
    shares_of, rate = ways(tps)
    assert shares_of[None] > 0.85
    assert rate > 0.97 * 50
    assert ways(tps, n_tokens=300)[1] > 0.94 * 50


def test_every_drafter_is_tried_before_one_is_kept():
    auto, tried = AutoSpeculation(drafters=DRAFTERS), []
    for step in range(80):
        if auto.way not in tried:
            tried.append(auto.way)
        auto.on_tokens(1, float(step))
    assert tried == [None, *DRAFTERS]


def test_it_notices_that_another_drafter_has_become_the_best():
    auto = AutoSpeculation(AutoSpeculationConfig(n_hold_max=128), drafters=DRAFTERS)
    first, rate = ways({None: 50, "model": 90, "both": 60, "ngram": 40}, 1500, auto=auto)
    assert first["model"] > 0.8
    tps = {None: 50, "model": 30, "both": 60, "ngram": 120}
    then, _ = ways(tps, 1500, auto=auto, start_s=1500 / rate)
    assert then["ngram"] > 0.75


def test_the_next_text_begins_with_the_drafter_that_was_kept():
    auto = AutoSpeculation(drafters=DRAFTERS)
    ways({None: 50, "model": 60, "both": 60, "ngram": 90}, 200, auto=auto)
    assert auto.way == "ngram"
    auto.begin_text()
    assert auto.way == "ngram"
