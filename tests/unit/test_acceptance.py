"""The text without a model: the same for the same seed, with the rates that were asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeinfer_cli.cluster.acceptance import candidates
from pipeinfer_cli.cluster.acceptance.models import (
    CONFIDENCES,
    UNKNOWN,
    RandomAcceptance,
    RecordedAcceptance,
    odds,
)
from pipeinfer_cli.cluster.acceptance.recording import MAX_CANDIDATES, RecordedToken, Recording
from pipeinfer_cli.cluster.acceptance.text import SyntheticDrafter, SyntheticText
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.scheduler.interfaces import DraftBatch, candidates_after
from pipeinfer_cli.scheduler.runs import Result, Run, RunStatus, RunToken

N, N_DRAWN = 10_000, 2_500
TOLERANCE = 4 * (0.25 / N) ** 0.5  # four standard deviations of a rate, at most


def text_of(rate, seed=5, **kwargs):
    return SyntheticText(acceptance=RandomAcceptance.parse(str(rate), seed), seed=seed, **kwargs)


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.66, 0.95, 1.0])
def test_first_proposals_are_right_at_the_rate(rate) -> None:
    text = text_of(rate)
    n_right = sum(text.proposals(p, 1)[0] == text.token(p) for p in range(N))
    assert n_right / N == pytest.approx(rate, abs=TOLERANCE)
    if rate in (0.0, 1.0):
        assert n_right == rate * N


def shares_of_ranks(text, n=4):
    """How often the 1st, 2nd, ... of n proposals is right, and none."""
    proposals = [text.proposals(p, 1, n) for p in range(N_DRAWN)]
    assert all(len(set(tokens)) == n for tokens in proposals)
    ranks = [
        tokens.index(text.token(p)) if text.token(p) in tokens else n
        for p, tokens in enumerate(proposals)
    ]
    # Asking for fewer does not change the first ones.
    assert all(text.proposals(p, 1, 2) == proposals[p][:2] for p in range(100))
    return [ranks.count(rank) / N_DRAWN for rank in range(n + 1)]


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.66, 0.79, 0.9])
@pytest.mark.parametrize("kind", ["", ":informed", ":real"])
def test_later_proposals_are_right_as_often_as_recorded(rate, kind) -> None:
    """How sure a drafter is hardly changes how often later proposals are right."""
    found = shares_of_ranks(text_of(f"{rate}{kind}"))
    expected = [(1 - rate) * share for share in candidates.misses(rate)[:3]]
    tolerance = TOLERANCE * (N / N_DRAWN) ** 0.5
    assert found[0] == pytest.approx(rate, abs=tolerance)
    assert found[1:4] == pytest.approx(expected, abs=0.05 if kind else tolerance)


def test_later_proposals_of_the_extremes() -> None:
    assert shares_of_ranks(text_of(0.0)) == [0, 0, 0, 0, 1]
    assert shares_of_ranks(text_of(1.0)) == [1, 0, 0, 0, 0]


def test_the_table_of_recordings() -> None:
    levels = candidates.levels()
    assert [level.rate for level in levels] == sorted(level.rate for level in levels)
    assert len(levels) >= 5
    for level in levels:
        assert sum(each.weight for each in level.bins) == pytest.approx(1, abs=1e-3)
        right = sum(each.weight * each.right for each in level.bins)
        assert right == pytest.approx(level.rate, abs=1e-3)
        assert [each.right for each in level.bins] == sorted(each.right for each in level.bins)
        for each in level.bins:
            assert len(each.stated) == len(each.chances) == MAX_CANDIDATES
            assert sum(each.stated) <= 1
            assert sum(each.chances) <= 1 + 1e-9


@given(st.floats(0, 1), st.floats(0, 1, exclude_max=True), st.sampled_from(CONFIDENCES))
def test_odds_are_probabilities(rate, number, confidence) -> None:
    found = odds(confidence, rate, number)
    for chances in (found.right, found.stated):
        assert len(chances) == MAX_CANDIDATES
        assert all(0 <= each <= 1 for each in chances)
        assert sum(chances) <= 1 + 1e-9


def test_the_better_a_drafter_the_better_its_second_choices() -> None:
    seconds = [candidates.misses(rate)[0] for rate in (0.1, 0.3, 0.5, 0.7, 0.9)]
    assert seconds == sorted(seconds)
    assert seconds[0] < 0.25
    assert seconds[-1] > 0.5


def test_a_real_drafter_is_less_sure_than_it_may_be() -> None:
    """Of greedy text: the target's best token is more probable to be it than to be drawn."""
    text = text_of("0.79:real")
    assert str(text.acceptance) == "0.79:real"
    chances = [text.acceptance.chances(p, 1, 1)[0] for p in range(N)]
    right = [text.proposals(p, 1)[0] == text.token(p) for p in range(N)]
    assert sum(chances) / N < 0.7
    sure = [hit for chance, hit in zip(chances, right, strict=True) if chance > 0.8]
    unsure = [hit for chance, hit in zip(chances, right, strict=True) if chance < 0.2]
    assert sum(sure) / len(sure) > 0.95
    assert 0.2 < sum(unsure) / len(unsure) < 0.6


def test_an_informed_drafter_is_as_sure_as_it_may_be() -> None:
    text = text_of("0.7:informed")
    assert str(text.acceptance) == "0.7:informed"
    for p in range(100):
        ((_, alone),) = candidates_after(SyntheticDrafter(text), [0] * p, 1)
        (_, first), (_, second) = candidates_after(SyntheticDrafter(text), [0] * p, 2)
        assert alone == first and second <= 1 - first
    chances = [text.acceptance.chances(p, 1, 1)[0] for p in range(N)]
    right = [text.proposals(p, 1)[0] == text.token(p) for p in range(N)]
    assert sum(right) / N == pytest.approx(0.7, abs=TOLERANCE)
    for low, high in ((0.0, 0.5), (0.5, 0.8), (0.8, 1.0)):
        among = [(c, r) for c, r in zip(chances, right, strict=True) if low <= c < high]
        assert len(among) > N / 10
        sure, share = (sum(each) / len(among) for each in zip(*among, strict=True))
        assert share == pytest.approx(sure, abs=0.06)


def test_neighbours_and_seeds_are_independent() -> None:
    acceptance, other = (
        RandomAcceptance(rates=(0.5,), seed=1),
        RandomAcceptance(rates=(0.5,), seed=2),
    )
    right = [acceptance.rank(p, 1) == 0 for p in range(N)]
    shifted = sum(a and b for a, b in zip(right, right[1:], strict=False)) / N
    across = sum(a and other.rank(p, 1) == 0 for p, a in enumerate(right)) / N
    assert shifted == pytest.approx(0.25, abs=TOLERANCE)
    assert across == pytest.approx(0.25, abs=TOLERANCE)


def test_tokens_are_ids_of_the_vocabulary() -> None:
    text = text_of(0.5, n_vocab=10)
    tokens = [text.token(p) for p in range(1000)]
    assert set(tokens) == set(range(10))
    assert {t for p in range(1000) for t in text.proposals(p, 1, 2)} == set(range(10))


def test_rates_by_distance_from_the_text() -> None:
    acceptance = RandomAcceptance.parse("1/0.5/0", seed=0)
    assert all(acceptance.rank(p, 1) == 0 for p in range(100))
    assert {acceptance.rank(p, 2) == 0 for p in range(100)} == {True, False}
    assert not any(acceptance.rank(p, ahead) == 0 for p in range(100) for ahead in (3, 9))

    text = SyntheticText(acceptance=acceptance, seed=0)
    drafter = SyntheticDrafter(text)
    drafter.n_decided = 10
    # 12 tokens of context, two of them drafted: what comes next is the third ahead, and wrong.
    assert candidates_after(drafter, range(12), 1) != [(text.token(12), 1.0)]
    drafter.n_decided = 12
    assert candidates_after(drafter, range(12), 1) == [(text.token(12), 1.0)]


def test_a_branch_stands_at_the_position_after_text_and_branch() -> None:
    text = SyntheticText(acceptance=RandomAcceptance.parse("1/0.5/0"), seed=0)
    drafter = SyntheticDrafter(text)
    drafter.n_decided = 12
    batch = DraftBatch(1, range(20), 12, ((), (5,), (5, 6)), 2)  # the text has grown since then
    answers = drafter.expand(batch, lambda: True)
    assert answers == [candidates_after(drafter, range(12 + n), 2) for n in range(3)]
    assert answers[0][0][0] == text.token(12)
    assert text.token(14) not in [token for token, _ in answers[2][:1]]


def test_results_say_what_the_text_says() -> None:
    text = text_of(0.5)
    run = Run(run_id=3, tokens=tuple(RunToken(id=0, position=p, want=p > 4) for p in (4, 5, 6, 6)))
    result = Result(run_id=3, status=RunStatus.COMPLETED, rows=(1, 2, 3), times=())
    assert text.with_verdicts(result, run).rows == (text.token(6), text.token(7), text.token(7))
    cancelled = Result(run_id=3, status=RunStatus.CANCELLED, rows=(), times=())
    assert text.with_verdicts(cancelled, run) == cancelled


TOKENS = (
    RecordedToken(0, (0.75, 0.125)),
    RecordedToken(2, (0.5, 0.25, 0.125)),
    RecordedToken(None, (0.5, 0.25)),
    RecordedToken(None, ()),
)


def recorded(*tokens, n_prompt=10):
    return RecordedAcceptance(recording=Recording(tokens=tokens), n_prompt=n_prompt)


def test_a_recording_is_played_back() -> None:
    acceptance = recorded(*TOKENS)
    assert acceptance.rate == 0.25
    positions = range(10, 18)  # twice
    assert [acceptance.rank(p, 1) for p in positions] == [0, 2, UNKNOWN, UNKNOWN] * 2
    assert [acceptance.chances(p, 1, 2) for p in (10, 11, 15)] == [
        [0.75, 0.125],
        *[[0.5, 0.25]] * 2,
    ]

    text = SyntheticText(acceptance=acceptance)
    drafter = SyntheticDrafter(text)
    proposed = [candidates_after(drafter, [0] * n, 4) for n in range(10, 14)]
    assert [[chance for _, chance in candidates] for candidates in proposed] == (
        [list(token.probabilities) for token in TOKENS]
    )
    right = [[token == text.token(10 + i) for token, _ in each] for i, each in enumerate(proposed)]
    assert right == [[True, False], [False, False, True], [False, False], []]


@pytest.mark.parametrize(
    "acceptance", [recorded(*TOKENS), RandomAcceptance(rates=(0.7, 0.4), confidence="informed")]
)
def test_branches_of_a_tree_have_the_candidates_of_their_positions(acceptance) -> None:
    text = SyntheticText(acceptance=acceptance)
    drafter = SyntheticDrafter(text)
    wrong = (text.token(10) + 1,)
    batch = DraftBatch(
        epoch=1, text=[0] * 12, n_text=10, branches=((), wrong, (5, 6)), n_candidates=3
    )
    expected = [text.candidates(10 + n, 1 + n, 3) for n in range(3)]
    assert drafter.expand(batch, lambda: True) == expected
    drafter.n_decided = 12  # the text has grown since: what is next to it is nearer
    assert drafter.expand(batch, lambda: True)[2] == text.candidates(12, 1, 3)


@pytest.mark.parametrize("rate", ["1.5", "-0.1", "nan", "x", "0.5/", "", "0.5:x", "0.5:", "x:real"])
def test_bad_rates(rate) -> None:
    with pytest.raises(UserError, match="acceptance"):
        RandomAcceptance.parse(rate)
