"""What a drafter's probabilities are worth is learned from what the target decides."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeinfer_cli.scheduler.speculation.confidence import (
    BANDS,
    MOST,
    N_CELLS,
    N_RANKS,
    PRIOR,
    Confidence,
)

OWN = (0.01, 0.1, 0.3, 0.6, 0.95)  # what drafters say of themselves

# The best first; drafters that take a temperature or a vocabulary into account may exceed 1.
candidates = st.lists(
    st.tuples(st.integers(0, 20), st.floats(0, 1)), max_size=8, unique_by=lambda each: each[0]
).map(lambda found: sorted(found, key=lambda each: -each[1]))


def learned(n, *, own, rate, rank=0, seed=1):
    """After so many positions where a candidate of this rank was right with a rate."""
    dice, confidence = random.Random(seed), Confidence()
    for _ in range(n):
        others = [(10 + i, own) for i in range(rank)]
        token = 1 if dice.random() < rate else 2
        confidence.on_decided([*others, (1, own)], token)
    return confidence.probability(rank, own)


@pytest.mark.parametrize("own", OWN)
def test_at_first_best_candidates_are_believed_more_and_others_as_they_say(own):
    known = Confidence()
    assert own < known.probability(0, own) <= min(max(PRIOR) * own, MOST)
    for rank in range(1, N_RANKS + 2):
        assert known.probability(rank, own) == pytest.approx(own)


@given(past=st.lists(st.tuples(candidates, st.integers(0, 20)), max_size=60), now=candidates)
def test_what_is_known_can_be_kept(past, now):
    known = Confidence()
    for each, token in past:
        known.on_decided(each, token)
    assert known.n_decided == len(past)
    same = Confidence(*known.counts)
    assert same.probabilities(now) == known.probabilities(now)


@pytest.mark.parametrize("counts", [(1.0,), (-1.0,) * N_CELLS, (float("nan"),) * N_CELLS])
def test_what_cannot_be_known_is_refused(counts):
    with pytest.raises(ValueError, match=f"not {N_CELLS} counts"):
        Confidence(counts, counts)


@pytest.mark.parametrize("rank", [0, 1, 4])
@pytest.mark.parametrize("own", [0.3, 0.6, 0.95])
def test_a_drafter_that_is_always_wrong_is_not_believed(own, rank):
    assert learned(200, own=own, rate=0.0, rank=rank) < 0.05
    assert learned(20, own=own, rate=0.0, rank=rank) < 0.7 * own


@pytest.mark.parametrize(("own", "rate"), [(0.1, 0.5), (0.3, 0.8), (0.6, 0.9), (0.6, 1.0)])
def test_an_understated_drafter_is_believed_more(own, rate):
    assert learned(400, own=own, rate=rate) == pytest.approx(rate, abs=0.15)


@pytest.mark.parametrize(("own", "rate"), [(0.3, 0.1), (0.6, 0.2), (0.95, 0.7)])
def test_an_overstated_drafter_is_believed_less(own, rate):
    assert learned(400, own=own, rate=rate) == pytest.approx(rate, abs=0.15)


@pytest.mark.parametrize("own", [0.1, 0.3, 0.6, 0.95])
def test_a_drafter_that_is_right_about_itself_stays_believed(own):
    assert learned(400, own=own, rate=own) == pytest.approx(own, abs=0.15)


def test_it_notices_a_change():
    confidence = Confidence()
    for _ in range(1000):
        confidence.on_decided([(1, 0.6)], 2)
    assert confidence.probability(0, 0.6) < 0.05
    for _ in range(300):
        confidence.on_decided([(1, 0.6)], 1)
    assert confidence.probability(0, 0.6) > 0.8


def test_ranks_and_bands_are_learned_apart():
    confidence = Confidence()
    for _ in range(200):
        confidence.on_decided([(1, 0.6), (2, 0.3), (3, 0.08)], 2)
    best, second, third = confidence.probabilities([(1, 0.6), (2, 0.3), (3, 0.08)])
    assert second > 0.8
    assert best < 0.1
    assert third < 0.1


@pytest.mark.parametrize("other", [0.05, 0.3, 0.7, 0.99])
def test_one_band_speaks_for_the_others_until_they_have_shown_enough(other):
    unknown = Confidence().probability(0, other)
    rate = {1.0: Confidence(), 0.0: Confidence()}
    for right, known in rate.items():
        for _ in range(60):
            known.on_decided([(1, 0.6), (2, 0.3)], 1 if right else 3)
    assert rate[0.0].probability(0, other) < unknown
    assert rate[1.0].probability(0, other) > unknown or unknown == MOST
    for _ in range(300):  # what it shows itself counts more
        rate[1.0].on_decided([(1, other)], 2)
    assert rate[1.0].probability(0, other) < 0.3 * unknown


def test_candidates_of_a_drafter_that_never_misses_do_not_divide_its_best_one():
    known = Confidence()
    for _ in range(60):
        known.on_decided([(1, 0.7), (2, 0.2)], 1)
    best, *_ = known.probabilities([(1, 0.4), (2, 0.3), (3, 0.2)])
    assert best > 0.8


@given(past=st.lists(st.tuples(candidates, st.integers(0, 20)), max_size=60), now=candidates)
def test_probabilities_are_probabilities_whatever_was_decided(past, now):
    confidence = Confidence()
    for each, token in past:
        confidence.on_decided(each, token)
    found = confidence.probabilities(now)
    assert len(found) == len(now)
    assert sum(found) <= 1 + 1e-9
    for rank, ((_, own), probability) in enumerate(zip(now, found, strict=True)):
        assert 0 <= probability <= MOST
        assert probability <= confidence.probability(rank, own) + 1e-12
        assert own > 0 or probability == 0


@given(
    past=st.lists(st.tuples(candidates, st.integers(0, 20)), max_size=60),
    rank=st.integers(0, 4),
    band=st.sampled_from(list(pairwise(BANDS))),
)
def test_the_surer_of_a_band_stays_the_surer(past, rank, band):
    """All of it are corrected by the same factor."""
    confidence = Confidence()
    for each, token in past:
        confidence.on_decided(each, token)
    low, high = band
    below, above = (confidence.probability(rank, own) for own in (low, (low + high) / 2))
    assert above == pytest.approx(min(MOST, below * (low + high) / 2 / low)) or below == MOST
