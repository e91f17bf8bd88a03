"""Moving the patch queue to another pin, on tiny sdists: no network, no compiler."""

import subprocess
from pathlib import Path

import pytest

import rebase
import upstream
from sdists import FILES, PATCH, make_sdist


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """native/UPSTREAM at version 1.0, whose sdist is in the cache, and the folder of patches."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PIPEINFER_UPSTREAM_SDIST", raising=False)
    cache = upstream.cache_folder()
    cache.mkdir(parents=True)
    old = make_sdist(cache / "some_package-1.0.tar.gz", FILES)
    pin = tmp_path / "UPSTREAM"
    pin.write_text(
        f"# a comment\npackage = {old.package}\nversion = {old.version}\nsha256  = {old.sha256}\n"
    )
    patches = tmp_path / "patches"
    patches.mkdir()
    (patches / "0001-change-two.patch").write_bytes(PATCH)
    return pin, patches


def move(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes
) -> int:
    """Moves to version 2.0, whose src/a.cpp is `text`."""

    def download(pin: upstream.Pin, folder: Path) -> Path:
        make_sdist(folder / "new.tar.gz", FILES | {"src/a.cpp": text})
        return folder / "new.tar.gz"

    monkeypatch.setattr(upstream, "download", download)
    pin, patches = files
    arguments = ["--pin", str(pin), "--patches", str(patches), "--to", "2.0"]
    return rebase.main([*arguments, "--into", str(tmp_path / "queue")])


def test_patches_follow_what_upstream_moved(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = b"zero\none\ntwo\nthree\nfour\nFIVE\n"
    assert move(files, tmp_path, monkeypatch, text) == 0
    queue = tmp_path / "queue"
    assert (queue / "src/a.cpp").read_bytes() == text.replace(b"two", b"TWO")
    log = ["git", "-C", str(queue), "log", "--format=%s", "upstream..queue"]
    assert subprocess.check_output(log, text=True) == "change two\n"
    pin = upstream.read_pin(files[0])
    assert pin.version == "2.0"
    assert upstream.find_sdist(pin).name == "some_package-2.0.tar.gz"
    assert files[0].read_text().startswith("# a comment\n")


def test_a_conflict_names_the_patch_and_the_file(
    files: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert move(files, tmp_path, monkeypatch, b"one\n2\nthree\nfour\nfive\n") == 1
    message = capsys.readouterr().err
    assert "patch 'change two' conflicts in src/a.cpp" in message
    assert "git rebase --continue" in message


def test_a_repository_that_exists_is_left_alone(
    files: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "queue").mkdir()
    assert move(files, tmp_path, monkeypatch, b"") == 1
    assert "remove it first" in capsys.readouterr().err
    assert upstream.read_pin(files[0]).version == "1.0"
