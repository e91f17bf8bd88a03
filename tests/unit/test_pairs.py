"""What is kept of a target and its draft model from one job to the next."""

import json

import pytest

from pipeinfer_cli.runtime import pairs
from pipeinfer_cli.scheduler.speculation.confidence import Confidence

N_DECIDED = 40


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("PIPEINFER_CACHE", str(tmp_path / "cache"))
    for name in ("target.gguf", "draft.gguf"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path / "target.gguf", tmp_path / "draft.gguf"


def learned(n_decided=N_DECIDED):
    confidence = Confidence()
    for _ in range(n_decided):
        confidence.on_decided([(1, 0.7), (2, 0.2)], 2)
    return confidence


def kept_files(files):
    return list((files[0].parent / "cache" / pairs.FOLDER).iterdir())


def test_the_next_job_knows_what_was_learned(files):
    confidence = learned()
    pairs.keep(*files, confidence)
    assert pairs.load(*files).known == confidence.known
    assert pairs.load(*reversed(files)).known == Confidence().known, "another pair"
    assert pairs.load(*files, "with an adapter").known == Confidence().known
    pairs.keep(*files, learned(), "with an adapter")
    assert len(kept_files(files)) == 2


def test_little_news_is_not_written(files):
    pairs.keep(*files, learned(pairs.LEAST_NEWS - 1))
    assert not (files[0].parent / "cache").exists()
    confidence = learned()
    pairs.keep(*files, confidence)
    (path,) = kept_files(files)
    path.unlink()
    pairs.keep(*files, confidence)
    assert kept_files(files) == [], "it has learned nothing since"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "[]",
        "null",
        "{}",
        '{"format": 1}',
        "[" * 100_000,
        "\xff",
    ],
)
def test_a_file_that_cannot_be_used_is_as_good_as_none(files, text):
    pairs.keep(*files, learned())
    (path,) = kept_files(files)
    path.write_text(text, encoding="latin-1")
    assert pairs.load(*files).known == Confidence().known


@pytest.mark.parametrize("place", [0, 1], ids=["value", "weight"])
@pytest.mark.parametrize(
    "number",
    [-99, 1e300, pytest.param(10**400, id="huge"), None, "1", [1], float("nan"), float("inf")],
)
def test_numbers_that_cannot_be_are_not_used(files, number, place):
    pairs.keep(*files, learned())
    (path,) = kept_files(files)
    kept = json.loads(path.read_text())
    kept["known"][1][place] = number
    path.write_text(json.dumps(kept))
    assert pairs.load(*files).known == Confidence().known


@pytest.mark.parametrize("known", [[], [[0.0, 9.0]], [[0.0]] * 3, [[0.0, 9.0, 1.0]] * 3, "abc", 5])
def test_a_list_of_another_shape_is_not_used(files, known):
    pairs.keep(*files, learned())
    (path,) = kept_files(files)
    path.write_text(json.dumps({**json.loads(path.read_text()), "known": known}))
    assert pairs.load(*files).known == Confidence().known


def test_a_cache_that_cannot_be_written_is_no_error(files):
    (files[0].parent / "cache").write_text("a file, not a folder")
    pairs.keep(*files, learned())
    assert pairs.load(*files).known == Confidence().known


def test_models_that_are_gone_are_no_error(files):
    files[1].unlink()
    pairs.keep(*files, learned())
    assert pairs.load(*files).known == Confidence().known
