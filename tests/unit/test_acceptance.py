"""The text without a model: the same for the same seed, with the rates that were asked for."""

import json
from itertools import islice

import pytest

from pipeinfer_cli.cluster.acceptance import (
    RandomAcceptance,
    RecordedAcceptance,
    SyntheticDrafter,
    SyntheticText,
)
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.scheduler.interfaces import DraftBatch
from pipeinfer_cli.scheduler.runs import Result, Run, RunStatus, RunToken

N = 10_000
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


def test_second_proposals_are_right_where_first_ones_miss() -> None:
    text = text_of(0.6)
    proposals = [text.proposals(p, 1, 3) for p in range(N)]
    assert all(len(set(tokens)) == 3 for tokens in proposals)
    ranks = [
        tokens.index(text.token(p)) if text.token(p) in tokens else 3
        for p, tokens in enumerate(proposals)
    ]
    shares = [ranks.count(rank) / N for rank in range(4)]
    assert shares == pytest.approx([0.6, 0.16, 0.096, 0.144], abs=TOLERANCE)
    # Asking for more does not change the first ones.
    assert all(text.proposals(p, 1, 2) == tokens[:2] for p, tokens in enumerate(proposals))


def test_an_informed_drafter_is_as_sure_as_it_may_be() -> None:
    text = text_of("0.7:informed")
    assert str(text.acceptance) == "0.7:informed"
    for p in range(100):
        ((_, alone),) = next(SyntheticDrafter(text).propose([0] * p))
        (_, first), (_, second) = next(SyntheticDrafter(text).propose([0] * p, 2))
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
    assert next(drafter.propose(range(12))) != [(text.token(12), 1.0)]
    drafter.n_decided = 12
    assert next(drafter.propose(range(12))) == [(text.token(12), 1.0)]


def test_drafter_goes_on_from_any_context() -> None:
    text = text_of(1.0)
    drafter = SyntheticDrafter(text)
    tokens = [token for ((token, _),) in islice(drafter.propose([0] * 7), 5)]
    assert tokens == [text.token(p) for p in range(7, 12)]


def test_a_branch_stands_at_the_position_after_text_and_branch() -> None:
    text = SyntheticText(acceptance=RandomAcceptance.parse("1/0.5/0"), seed=0)
    drafter = SyntheticDrafter(text)
    drafter.n_decided = 12
    batch = DraftBatch(1, range(20), 12, ((), (5,), (5, 6)), 2)  # the text has grown since then
    answers = drafter.expand(batch, lambda: True)
    assert answers == [next(drafter.propose(range(12 + n), 2)) for n in range(3)]
    assert answers[0][0][0] == text.token(12)
    assert text.token(14) not in [token for token, _ in answers[2][:1]]


def test_results_say_what_the_text_says() -> None:
    text = text_of(0.5)
    run = Run(run_id=3, tokens=tuple(RunToken(id=0, position=p, want=p > 4) for p in (4, 5, 6, 6)))
    result = Result(run_id=3, status=RunStatus.COMPLETED, rows=(1, 2, 3), times=())
    assert text.with_verdicts(result, run).rows == (text.token(6), text.token(7), text.token(7))
    cancelled = Result(run_id=3, status=RunStatus.CANCELLED, rows=(), times=())
    assert text.with_verdicts(cancelled, run) == cancelled


def test_recorded_acceptance(tmp_path) -> None:
    path = tmp_path / "trace.json"
    path.write_text(json.dumps([True, False, True]))
    acceptance = RecordedAcceptance.read(path, n_prompt=10)
    assert [acceptance.rank(p, 1) == 0 for p in range(10, 16)] == [
        True,
        False,
        True,
        True,
        False,
        True,
    ]
    text = SyntheticText(acceptance=acceptance)
    assert [text.proposals(p, 1)[0] == text.token(p) for p in (10, 11)] == [True, False]


@pytest.mark.parametrize(
    "content",
    ["[]", "{}", "[1, 0]", "[true, 0.5]", "nothing", pytest.param("[" * 200_000, id="deep")],
)
def test_bad_recordings(tmp_path, content) -> None:
    path = tmp_path / "trace.json"
    path.write_text(content)
    with pytest.raises(UserError, match="the acceptance trace"):
        RecordedAcceptance.read(path, n_prompt=1)
    with pytest.raises(UserError, match="cannot read the acceptance trace"):
        RecordedAcceptance.read(tmp_path / "none.json", n_prompt=1)


@pytest.mark.parametrize("rate", ["1.5", "-0.1", "nan", "x", "0.5/", "", "0.5:sure"])
def test_bad_rates(rate) -> None:
    with pytest.raises(UserError, match="acceptance"):
        RandomAcceptance.parse(rate)
