"""Coupled sampling: filters, noise, and that it draws from the ordinary distribution.

Everything is a function of fixed seeds: what passes once passes always.
"""

from dataclasses import asdict

import numpy as np
import pytest

import plain_sampling as plain
from pipeinfer_cli.engine.sampling import MAX_TOP, sample, sample_top
from pipeinfer_cli.scheduler.runs import MAX_SEED, SampleParams

pytestmark = pytest.mark.native

# The worst of all statistics below is allowed this many standard deviations.
SIGMAS = 4
OFF = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
PLAIN = SampleParams(temperature=0.8, **OFF)


def params_of(**filters):
    return SampleParams(**{"temperature": 0.8, **OFF, **filters})


def random_logits(n_vocab, seed, spread=3.0):
    return np.random.default_rng(seed).normal(0, spread, n_vocab).astype(np.float32)


def draws(logits, params, n, first=0):
    """A token for each position of [first, first + n): independent draws."""
    return np.array([sample(logits, first + i, params)[0] for i in range(n)])


def assert_drawn_from(tokens, probabilities):
    """Pearson's chi-squared test; expected counts below 5 are taken together."""
    counts = np.bincount(tokens, minlength=len(probabilities))
    assert counts[probabilities == 0].sum() == 0
    expected = probabilities * len(tokens)
    rare = expected < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], max(expected[rare].sum(), 1e-9))
    freedom = len(counts) - 1 - int(not rare.any())
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < freedom + SIGMAS * np.sqrt(2 * freedom), (chi_squared, freedom)


@pytest.mark.parametrize(
    ("logits", "token"),
    [([0, 3, 1], 1), ([1, 3, 3], 1), ([2, 2, 2], 0), ([-5], 0), ([-np.inf, -1], 1)],
)
def test_greedy_is_the_largest_logit_the_lowest_id_first(logits, token):
    logits = np.array(logits, dtype=np.float32)
    for params in (SampleParams(), SampleParams(seed=7, top_k=1), params_of(top_k=1)):
        assert sample(logits, 3, params)[0] == token


def test_probability_is_that_of_the_whole_vocabulary_at_temperature_1():
    logits = random_logits(1000, seed=1)
    for params in (SampleParams(), PLAIN, params_of(top_k=2)):
        token, probability = sample(logits, 5, params)
        assert probability == pytest.approx(plain.softmax(logits)[token], rel=1e-5)


FILTERS = [
    {},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 5000},
    {"top_p": 0.0},
    {"top_p": 0.3},
    {"top_p": 0.95},
    {"top_p": 0.99999},
    {"min_p": 0.02},
    {"min_p": 1.0},
    {"top_k": 40, "top_p": 0.95, "min_p": 0.05},
    {"top_k": 4, "top_p": 0.6, "min_p": 0.3},
    {"top_k": 100, "top_p": 0.8, "min_p": 0.001},
]


@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("temperature", [0.01, 0.8, 3.0])
def test_tokens_equal_the_plain_implementation(filters, temperature):
    params = params_of(**{**filters, "temperature": temperature, "seed": MAX_SEED - 1})
    for seed, (n_vocab, spread) in enumerate([(1, 1), (6, 1), (300, 4), (2000, 0.5)]):
        logits = random_logits(n_vocab, seed, spread)
        for position in (0, 1, 17, 4095, 2**31 - 1):
            expected = plain.sample(logits, position, asdict(params))
            assert sample(logits, position, params)[0] == expected


@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_filters_leave_what_llama_cpps_definitions_leave(filters):
    """At a high temperature everything that is left gets drawn sooner or later."""
    logits = random_logits(60, seed=3, spread=2)
    logits[[4, 9, 30]] = logits[[5, 11, 7]]  # ties
    params = params_of(**filters, temperature=1e4)
    assert set(draws(logits, params, 1500)) == set(plain.keep(logits, asdict(params)))


def plain_top(logits, position, params, n):
    """The best ids in the order of the draw, by sorting them all."""
    if params.temperature == 0:
        return np.argsort(-logits, kind="stable")[:n].tolist()
    kept = np.sort(plain.keep(logits, asdict(params)))
    noise = plain.gumbel(params.seed, position, kept)
    scores = logits[kept].astype(np.float64) / np.float32(params.temperature) + noise
    return kept[np.argsort(-scores, kind="stable")][:n].tolist()


@pytest.mark.parametrize("filters", [None, *FILTERS], ids=str)
def test_the_best_tokens_are_those_of_the_draw_in_its_order(filters):
    params = SampleParams() if filters is None else params_of(**filters, seed=3)
    for seed, (n_vocab, spread) in enumerate([(1, 1), (5, 1), (130, 3), (1999, 0.5)]):
        logits = random_logits(n_vocab, seed, spread)
        logits[n_vocab // 2 :] = logits[: n_vocab - n_vocab // 2]  # ties
        probabilities = plain.softmax(logits)
        for position, n in [(0, 1), (7, 2), (8, 5), (4095, MAX_TOP)]:
            best = sample_top(logits, position, params, n)
            assert [token for token, _ in best] == plain_top(logits, position, params, n)
            assert best[0] == sample(logits, position, params)
            for token, probability in best:
                assert probability == pytest.approx(probabilities[token], rel=1e-5)


def test_what_has_no_probability_is_not_among_the_best():
    logits = np.array([-np.inf, 1, np.nan, 3, -np.inf], dtype=np.float32)
    for params in (SampleParams(), PLAIN, params_of(top_k=4)):
        assert sorted(token for token, _ in sample_top(logits, 0, params, 4)) == [1, 3]
    nothing = np.full(70, -np.inf, dtype=np.float32)
    assert [len(sample_top(nothing, 0, params, 4)) for params in (SampleParams(), PLAIN)] == [1, 1]


def test_ties_at_the_end_of_top_k_leave_the_lowest_ids():
    logits = np.array([1, 5, 1, 1, 1], dtype=np.float32)
    assert set(draws(logits, params_of(top_k=3, temperature=100), 200)) == {0, 1, 2}


def test_logits_that_are_no_numbers_are_never_drawn():
    logits = np.array([np.nan, 1, -np.inf, 1.5, np.nan, 1], dtype=np.float32)
    for filters in ({}, {"top_k": 3}, {"top_p": 0.9}, {"min_p": 0.1}):
        assert set(draws(logits, params_of(**filters), 200)) <= {1, 3, 5}
    assert sample(np.full(3, np.nan, dtype=np.float32), 0, PLAIN)[0] in range(3)


def test_splitmix64_gives_its_published_numbers():
    """Known answers of the generator started at 1234567."""
    assert [plain.splitmix64(1234567, i) for i in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_noise_depends_on_seed_position_and_id_only():
    flat = np.zeros(500, dtype=np.float32)
    tokens = draws(flat, PLAIN, 200)
    assert (tokens == draws(flat, PLAIN, 200)).all()
    assert (tokens == draws(flat - 7, PLAIN, 200)).all()
    longer = np.append(flat, np.full(100, -1e6, dtype=np.float32))
    assert (tokens == draws(longer, PLAIN, 200)).all()
    assert np.mean(tokens == draws(flat, PLAIN, 200, first=1)) < 0.05
    assert np.mean(tokens == draws(flat, params_of(seed=1), 200)) < 0.05
    assert np.mean(tokens == draws(flat, params_of(seed=2**63), 200)) < 0.05


@pytest.mark.parametrize(
    "params",
    [
        PLAIN,
        params_of(temperature=0.5, seed=11),
        params_of(temperature=2.0, seed=12),
        SampleParams(temperature=0.8, seed=13),
        params_of(top_k=10, seed=14),
        params_of(top_p=0.7, seed=15),
        params_of(min_p=0.1, seed=16),
    ],
    ids=str,
)
def test_positions_are_independent_draws_from_the_ordinary_distribution(params):
    logits = random_logits(100, seed=4, spread=2)
    expected = plain.distribution(logits, asdict(params))
    tokens = draws(logits, params, 40000)
    assert_drawn_from(tokens, expected)
    pairs = tokens[:-1:2] * len(logits) + tokens[1::2]
    assert_drawn_from(pairs, np.outer(expected, expected).ravel())


def test_seeds_are_independent_draws_from_the_ordinary_distribution():
    logits = random_logits(50, seed=5, spread=1.5)
    expected = plain.distribution(logits, asdict(PLAIN))
    tokens = np.array([sample(logits, 9, params_of(seed=seed))[0] for seed in range(20000)])
    assert_drawn_from(tokens, expected)


def test_a_vocabulary_of_usual_size():
    """Equal logits: every part of the vocabulary is drawn as often as the others."""
    n_vocab, n_parts = 131072, 64
    tokens = draws(np.zeros(n_vocab, dtype=np.float32), PLAIN, 1000)
    assert_drawn_from(tokens * n_parts // n_vocab, np.full(n_parts, 1 / n_parts))


@pytest.mark.parametrize("difference", [0.1, 0.3, 1.0])
def test_nearby_logits_draw_the_same_token(difference):
    """Coupled draws agree with a probability of at least (1 - D) / (1 + D), D the total variation.

    Source: Daliri, Musco, Suresh, "Coupling without Communication ..." (2024), theorem 3.
    """
    n = 5000
    target = random_logits(1000, seed=6)
    draft = target + random_logits(1000, seed=7, spread=difference)
    p, q = (plain.distribution(each, asdict(PLAIN)) for each in (target, draft))
    variation = np.abs(p - q).sum() / 2
    agree = np.mean(draws(target, PLAIN, n) == draws(draft, PLAIN, n))
    assert agree >= (1 - variation) / (1 + variation) - SIGMAS * np.sqrt(0.25 / n)
    assert agree > 2 * (p * q).sum()  # what independent draws would have
