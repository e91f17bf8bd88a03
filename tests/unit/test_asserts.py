"""The check of asserts of `make lint`: this project passes, and an effect is found."""

from pathlib import Path

import pytest

import check_asserts

ROOT = Path(__file__).parents[2]


def test_this_project_passes() -> None:
    files = [path for folder in check_asserts.FOLDERS for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    assert [line for path in files for line in check_asserts.problems(path)] == []


@pytest.mark.parametrize(
    ("text", "n_found"),
    [
        ("assert x is not None and len(y) > 1, 'two'", 0),
        ("assert set(x.keys()) == {1}", 0),
        ("assert x.pop()", 1),
        ("assert connect()", 1),
        ("assert (pid := 3) > x", 1),
        ("def f():\n    assert (yield)", 1),
        ("for x in y:\n    assert next(x)", 1),
    ],
)
def test_an_effect_is_found(text: str, n_found: int, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(text)
    assert len(list(check_asserts.problems(tmp_path / "a.py"))) == n_found
