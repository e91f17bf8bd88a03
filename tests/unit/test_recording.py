"""Recordings of acceptance: written and read, of the first format, and those that are neither."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeinfer_cli.cluster.acceptance import recording
from pipeinfer_cli.cluster.acceptance.models import UNKNOWN, RecordedAcceptance
from pipeinfer_cli.cluster.acceptance.recording import MAX_CANDIDATES, RecordedToken, Recording
from pipeinfer_cli.errors import RunError, UserError


@st.composite
def recorded_tokens(draw):
    weights = draw(st.lists(st.floats(0, 1), max_size=MAX_CANDIDATES))
    probabilities = tuple(weight / MAX_CANDIDATES for weight in weights)
    ranks = st.integers(0, len(weights) - 1) if weights else st.nothing()
    return RecordedToken(draw(st.none() | ranks), probabilities)


recordings = st.builds(
    Recording,
    target=st.text(),
    drafter=st.sampled_from(["model", "ngram"]),
    draft_model=st.text(),
    tokens=st.lists(recorded_tokens(), min_size=1, max_size=20).map(tuple),
)


@given(recordings)
def test_what_is_written_is_read(tmp_path_factory, written) -> None:
    path = tmp_path_factory.getbasetemp() / "recording.json"
    written.write(path)
    assert recording.read(path) == written


def test_a_token_is_a_line(tmp_path) -> None:
    path = tmp_path / "acceptance.json"
    tokens = (RecordedToken(0, (0.5, 0.25)), RecordedToken(None, ()))
    Recording(target="a.gguf", drafter="ngram", tokens=tokens).write(path)
    assert path.read_text().splitlines()[-4:] == [
        '{"rank": 0, "probabilities": [0.5, 0.25]},',
        '{"rank": null, "probabilities": []}',
        "]",
        "}",
    ]
    with pytest.raises(RunError, match="cannot write the acceptance recording"):
        Recording(tokens=tokens).write(tmp_path / "no" / "acceptance.json")


def test_a_list_of_booleans_is_the_first_format(tmp_path) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps([True, False, True]))
    acceptance = RecordedAcceptance.read(path, n_prompt=10)
    assert acceptance.rate == pytest.approx(2 / 3)
    assert [acceptance.rank(p, 1) for p in range(10, 14)] == [0, UNKNOWN, 0, 0]
    assert acceptance.chances(11, 1, 4) == [1.0]  # of a second candidate nothing is known


def fields(**changes):
    token = {"rank": 0, "probabilities": [0.5, 0.25]}
    return json.dumps({"format": 2, "tokens": [token, {**token, **changes}]})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "no tokens"),
        ("[1, 0]", "not a list of booleans"),
        ("[true, 0.5]", "not a list of booleans"),
        ("{}", '"format" is missing'),
        ("true", '"format" is missing'),
        ("nothing", "is not JSON"),
        (b"\xff", "is not JSON"),
        pytest.param("[" * 200_000, "is nested too deeply", id="deep"),
        ('{"format": 3}', "format 3, not 2"),
        ('{"format": true}', "format True, not 2"),
        ('{"format": 2}', '"tokens" is not a list'),
        ('{"format": 2, "tokens": []}', "no tokens"),
        ('{"format": 2, "tokens": [5]}', "token 0: give rank and probabilities"),
        ('{"format": 2, "tokens": [{}]}', "token 0: give rank and probabilities"),
        ('{"format": 2, "target": 1, "tokens": []}', "target 1: give a string"),
        (fields(more=1), "token 1: give rank and probabilities"),
        (fields(rank=True), "token 1: rank True: give a whole number or null"),
        (fields(rank=0.5), "token 1: rank 0.5: give a whole number or null"),
        (fields(rank=2), "token 1: rank 2 of 2 candidates: give null"),
        (fields(rank=-1), "token 1: rank -1 of 2 candidates: give null"),
        (fields(probabilities=0.5), "token 1: probabilities 0.5: give a list of numbers"),
        (fields(probabilities=["x"]), "token 1: probabilities ['x']: give a list of numbers"),
        (fields(probabilities=[True]), "token 1: probabilities [True]: give a list of numbers"),
        (fields(probabilities=[1.5]), "token 1: probability 1.5: give a number from 0 to 1"),
        (fields(probabilities=[float("nan")]), "token 1: probability nan: give a number from 0"),
        (fields(probabilities=[10**400]), "token 1: a probability is too large"),
        (fields(probabilities=[0.9, 0.9]), "token 1: probabilities with a sum of 1.8"),
    ],
)
def test_bad_recordings(tmp_path, content, message) -> None:
    path = tmp_path / "trace.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        RecordedAcceptance.read(path, n_prompt=1)
    assert f"the acceptance recording {str(path)!r}" in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_recordings(tmp_path) -> None:
    with pytest.raises(UserError, match="cannot read the acceptance recording"):
        recording.read(tmp_path / "none.json")
