"""What a drafter's probabilities are worth is learned from what the target decides."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeinfer_cli.scheduler.speculation.confidence import MOST, PRIORS, Confidence

OWN = (0.01, 0.1, 0.3, 0.6, 0.95)  # what drafters say of themselves

# The best first; drafters that take a temperature or a vocabulary into account may exceed 1.
candidates = st.lists(
    st.tuples(st.integers(0, 20), st.floats(0, 1)), max_size=8, unique_by=lambda each: each[0]
).map(lambda found: sorted(found, key=lambda each: -each[1]))


def learned(n, *, own, rate, rank=0, seed=1):
    """After this many positions where a candidate of this rank was right with a rate."""
    dice, confidence = random.Random(seed), Confidence()
    others = [(10 + i, own) for i in range(rank)]
    for _ in range(n):
        confidence.on_decided([*others, (1, own)], 1 if dice.random() < rate else 2)
    return confidence.probabilities([*others, (1, own)])[rank]


@pytest.mark.parametrize("own", OWN)
def test_at_first_best_candidates_are_believed_more_than_they_say(own):
    known = Confidence()
    (alone,) = known.probabilities([(1, own)])
    assert own < alone <= MOST
    best, second = known.probabilities([(1, own), (2, min(own, 1 - own) / 2)])
    assert best > own
    assert second < best / 2


@given(past=st.lists(st.tuples(candidates, st.integers(0, 20)), max_size=60), now=candidates)
def test_what_is_known_can_be_kept(past, now):
    known = Confidence()
    for each, token in past:
        known.on_decided(each, token)
    assert known.n_decided == sum(bool(each) for each, _ in past)
    same = Confidence(known.known)
    assert same.probabilities(now) == known.probabilities(now)


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ([(0.0, 4.0)], "shorter"),
        ([(0.0, 4.0)] * 4, "longer"),
        ([(99.0, 9.0)] * 3, "value out of bounds"),
        pytest.param([(10**400, 9.0)] * 3, "value out of bounds", id="huge value"),
        ([(float("nan"), 9.0)] * 3, "value out of bounds"),
        ([(0.0, 0.0)] * 3, "weight that cannot be"),
        ([(0.0, 1e300)] * 3, "weight that cannot be"),
        pytest.param([(0.0, 10**400)] * 3, "weight that cannot be", id="huge weight"),
        ([(0.0, float("nan"))] * 3, "weight that cannot be"),
    ],
)
def test_what_cannot_be_known_is_refused(known, said):
    with pytest.raises(ValueError, match=said):
        Confidence(known)


@pytest.mark.parametrize(
    ("own", "rank"), [(0.3, 0), (0.6, 0), (0.95, 0), (0.3, 1), (0.45, 1), (0.15, 4)]
)
def test_a_drafter_that_is_always_wrong_is_not_believed(own, rank):
    assert learned(200, own=own, rate=0.0, rank=rank) < 0.1
    assert learned(20, own=own, rate=0.0, rank=rank) < 0.8 * learned(
        0, own=own, rate=0.0, rank=rank
    )


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
    assert confidence.probabilities([(1, 0.6)])[0] < 0.05
    for _ in range(300):
        confidence.on_decided([(1, 0.6)], 1)
    assert confidence.probabilities([(1, 0.6)])[0] > 0.8


def test_it_may_be_the_second_that_is_right():
    confidence = Confidence()
    for _ in range(200):
        confidence.on_decided([(1, 0.6), (2, 0.3), (3, 0.08)], 2)
    best, second, third = confidence.probabilities([(1, 0.6), (2, 0.3), (3, 0.08)])
    assert second > 0.8
    assert best < 0.15
    assert third < 0.1


@pytest.mark.parametrize("other", [0.05, 0.3, 0.7, 0.99])
def test_what_is_said_at_one_place_tells_of_others(other):
    (unknown,) = Confidence().probabilities([(1, other)])
    rate = {1.0: Confidence(), 0.0: Confidence()}
    for right, known in rate.items():
        for _ in range(60):
            known.on_decided([(1, 0.6), (2, 0.3)], 1 if right else 3)
    assert rate[0.0].probabilities([(1, other)])[0] < unknown
    assert rate[1.0].probabilities([(1, other)])[0] > unknown


@pytest.mark.parametrize("n_right", [20, 60])
def test_a_drafter_that_follows_its_target_closely_is_unsure_only_where_two_are_near(n_right):
    """It misses where the second candidate is as good as the best, whatever its share."""
    known, dice = Confidence(), random.Random(1)
    for _ in range(n_right):
        best = dice.uniform(0.2, 0.6)
        known.on_decided([(1, best), (2, best / 3), (3, best / 9)], 1)
        known.on_decided([(1, best), (2, best * 0.97), (3, best / 9)], dice.choice([1, 2]))
    clear, *_ = known.probabilities([(1, 0.3), (2, 0.1), (3, 0.03)])
    close, second, _ = known.probabilities([(1, 0.45), (2, 0.44), (3, 0.03)])
    assert clear > 0.9
    assert 0.35 < second < close < 0.65


def test_of_sampled_texts_the_best_candidate_is_right_however_improbable():
    """The same random number draws it from what the target says and from what the drafter says."""
    known, dice = Confidence(), random.Random(1)
    for _ in range(100):
        drawn = dice.uniform(0.05, 0.9)
        known.on_decided([(1, drawn), (2, 0.95 - drawn)], 1)
    assert known.probabilities([(1, 0.1), (2, 0.8)])[0] > 0.8


def test_candidates_of_a_drafter_that_never_misses_do_not_divide_its_best_one():
    known = Confidence()
    for _ in range(60):
        known.on_decided([(1, 0.7), (2, 0.2)], 1)
    best, *_ = known.probabilities([(1, 0.4), (2, 0.3), (3, 0.2)])
    assert best > 0.75


@given(past=st.lists(st.tuples(candidates, st.integers(0, 20)), max_size=60), now=candidates)
def test_probabilities_are_probabilities_whatever_was_decided(past, now):
    confidence = Confidence()
    for each, token in past:
        confidence.on_decided(each, token)
    for prior, (value, weight) in zip(PRIORS, confidence.known, strict=True):
        assert prior.low <= value <= prior.high
        assert weight >= prior.weight
    found = confidence.probabilities(now)
    assert len(found) == len(now)
    assert sum(found) <= 1 + 1e-9
    assert all(0 <= each <= MOST for each in found)
    assert found[1:] == sorted(found[1:], reverse=True), "the surer stays the surer"
    kept = confidence.probabilities(now, 0.2)
    assert kept == found[: len(kept)]
    assert all(each < 0.2 for each in found[len(kept) :])
    assert not kept or kept[-1] >= 0.2


@pytest.mark.parametrize("probability", [float("nan"), float("inf"), float("-inf")])
def test_nothing_is_learned_from_a_broken_drafter(probability):
    confidence = Confidence()
    confidence.on_decided([(1, probability), (2, 0.1)], 1)
    assert confidence.known == Confidence().known
