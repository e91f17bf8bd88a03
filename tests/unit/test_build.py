"""The fetch script of the build, on tiny sdists: no network, no compiler."""

import os
import re
import subprocess
from pathlib import Path

import pytest

import link_bindings
import upstream
from sdists import FILES, PATCH, make_sdist
from unidiff import PatchError, apply_patch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def pin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> upstream.Pin:
    """The pin of a sdist that PIPEINFER_UPSTREAM_SDIST names; the cache is empty."""
    sdist = tmp_path / "given.tar.gz"
    monkeypatch.setenv("PIPEINFER_UPSTREAM_SDIST", str(sdist))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return make_sdist(sdist, FILES)


@pytest.fixture
def patch(tmp_path: Path) -> Path:
    path = tmp_path / "0001-change-two.patch"
    path.write_bytes(PATCH)
    return path


def set_mtimes(folder: Path, time_s: int) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (time_s, time_s))


def test_sources_are_unpacked_and_patched(pin: upstream.Pin, patch: Path, tmp_path: Path) -> None:
    folder = tmp_path / "llama.cpp"
    upstream.prepare(pin, [patch], folder)
    assert (folder / "src/a.cpp").read_bytes() == b"one\nTWO\nthree\nfour\nfive\n"
    assert (folder / "src/b.cpp").read_bytes() == FILES["src/b.cpp"]
    assert not (folder / "models").exists()


def test_second_call_reads_nothing(
    pin: upstream.Pin, patch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "llama.cpp"
    upstream.prepare(pin, [patch], folder)
    monkeypatch.setenv("PIPEINFER_UPSTREAM_SDIST", str(tmp_path / "gone"))
    assert upstream.prepare(pin, [patch], folder).endswith("up to date")


def test_changed_patch_touches_only_what_changes(
    pin: upstream.Pin, patch: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "llama.cpp"
    upstream.prepare(pin, [patch], folder)
    set_mtimes(folder, 1000)
    patch.write_bytes(PATCH.replace(b"+TWO", b"+2"))
    assert "1 of 3 files written" in upstream.prepare(pin, [patch], folder)
    assert (folder / "src/a.cpp").read_bytes().startswith(b"one\n2\n")
    assert (folder / "src/a.cpp").stat().st_mtime > 1000
    assert (folder / "src/b.cpp").stat().st_mtime == 1000


def test_file_of_a_dropped_patch_disappears(pin: upstream.Pin, patch: Path, tmp_path: Path) -> None:
    folder = tmp_path / "llama.cpp"
    patch.write_bytes(
        b"diff --git a/src/new.cpp b/src/new.cpp\nnew file mode 100644\n"
        b"--- /dev/null\n+++ b/src/new.cpp\n@@ -0,0 +1,2 @@\n+x\n+y\n"
    )
    upstream.prepare(pin, [patch], folder)
    assert (folder / "src/new.cpp").read_bytes() == b"x\ny\n"
    upstream.prepare(pin, [], folder)
    assert not (folder / "src/new.cpp").exists()


def test_patch_that_does_not_fit_names_itself(
    pin: upstream.Pin, patch: Path, tmp_path: Path
) -> None:
    patch.write_bytes(PATCH.replace(b"-two", b"-zwei"))
    with pytest.raises(
        upstream.UpstreamError, match=r"0001-change-two\.patch .*src/a\.cpp.*line 1"
    ):
        upstream.prepare(pin, [patch], tmp_path / "llama.cpp")
    assert not (tmp_path / "llama.cpp").exists()


def test_given_sdist_with_another_hash_is_refused(pin: upstream.Pin, tmp_path: Path) -> None:
    other = upstream.Pin(pin.package, pin.version, "0" * 64)
    with pytest.raises(upstream.UpstreamError, match=f"{pin.sha256}.*{'0' * 64}"):
        upstream.prepare(other, [], tmp_path / "llama.cpp")


def test_given_sdist_that_is_missing(
    pin: upstream.Pin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPEINFER_UPSTREAM_SDIST", str(tmp_path / "none.tar.gz"))
    with pytest.raises(upstream.UpstreamError, match=r"none\.tar\.gz, which is not a file"):
        upstream.prepare(pin, [], tmp_path / "llama.cpp")


def fake_pip(monkeypatch: pytest.MonkeyPatch, content: bytes | None) -> list[list[str]]:
    """Replace pip: it delivers the content, or fails; returns the list of its calls."""
    calls: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        if content is None:
            return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution")
        folder = Path(command[command.index("--dest") + 1])
        (folder / "some_package-1.0.tar.gz").write_bytes(content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(upstream.subprocess, "run", run)
    monkeypatch.delenv("PIPEINFER_UPSTREAM_SDIST")
    return calls


def test_download_is_cached(
    pin: upstream.Pin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = fake_pip(monkeypatch, (tmp_path / "given.tar.gz").read_bytes())
    for folder in ("one", "two"):
        upstream.prepare(pin, [], tmp_path / folder)
    assert len(calls) == 1
    assert [path.name for path in upstream.cache_folder().iterdir()] == [pin.filename]


def test_wrong_cached_sdist_is_downloaded_anew(
    pin: upstream.Pin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = fake_pip(monkeypatch, (tmp_path / "given.tar.gz").read_bytes())
    upstream.cache_folder().mkdir(parents=True)
    (upstream.cache_folder() / pin.filename).write_bytes(b"half a file")
    upstream.prepare(pin, [], tmp_path / "llama.cpp")
    assert len(calls) == 1
    assert upstream.sha256_of(upstream.cache_folder() / pin.filename) == pin.sha256


def test_wrong_download_is_refused_and_not_cached(
    pin: upstream.Pin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pip(monkeypatch, b"something else")
    with pytest.raises(upstream.UpstreamError, match=pin.sha256):
        upstream.prepare(pin, [], tmp_path / "llama.cpp")
    assert list(upstream.cache_folder().iterdir()) == []


def test_failed_download_says_what_to_do(
    pin: upstream.Pin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pip(monkeypatch, None)
    with pytest.raises(
        upstream.UpstreamError, match=r"No matching distribution.*PIPEINFER_UPSTREAM_SDIST"
    ):
        upstream.prepare(pin, [], tmp_path / "llama.cpp")


def test_main_prints_one_line_for_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pin_path = tmp_path / "UPSTREAM"
    pin_path.write_text("package = x\n", encoding="utf-8")
    assert upstream.main(["--pin", str(pin_path), "--into", str(tmp_path / "into")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_pyproject_requires_the_pinned_version() -> None:
    pin = upstream.read_pin(ROOT / "native" / "UPSTREAM")
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.findall(rf'"{pin.package}==([^"]*)"', pyproject) == [pin.version]


HEADER = b"diff --git a/f b/f\n--- a/f\n+++ b/f\n"
PATCH_CASES = {
    "insert only": (b"1\n2\n", b"@@ -1,0 +2 @@\n+x\n", b"1\nx\n2\n"),
    "two hunks": (
        b"1\n2\n3\n4\n5\n",
        b"@@ -1 +1,2 @@\n 1\n+x\n@@ -4,2 +5 @@\n-4\n 5\n",
        b"1\nx\n2\n3\n5\n",
    ),
    "removed line that looks like a header": (
        b"-- a/g\nz\n",
        b"@@ -1,2 +1 @@\n--- a/g\n z\n",
        b"z\n",
    ),
    "newline at the end added": (b"1", b"@@ -1 +1 @@\n-1\n\\ No newline\n+1\n", b"1\n"),
    "newline at the end removed": (b"1\n", b"@@ -1 +1 @@\n-1\n+2\n\\ No newline\n", b"2"),
    "carriage returns kept": (b"1\r\n2\r\n", b"@@ -2 +2 @@\n-2\r\n+3\r\n", b"1\r\n3\r\n"),
}


@pytest.mark.parametrize(("old", "hunks", "new"), PATCH_CASES.values(), ids=PATCH_CASES)
def test_patch_is_applied(old: bytes, hunks: bytes, new: bytes) -> None:
    files = {"f": old}
    apply_patch(files, HEADER + hunks + b"-- \n2.0\n")
    assert files == {"f": new}


def test_patch_can_delete_a_file() -> None:
    files = {"f": b"1\n", "g": b""}
    apply_patch(files, b"diff --git a/f b/f\n--- a/f\n+++ /dev/null\n@@ -1 +0,0 @@\n-1\n")
    assert files == {"g": b""}


BAD_PATCHES = {
    "no diff": b"hello\n",
    "mode only": b"diff --git a/f b/f\nold mode 100644\nnew mode 100755\n",
    "file missing": b"diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-1\n+2\n",
    "file there already": b"diff --git a/f b/f\n--- /dev/null\n+++ b/f\n@@ -0,0 +1 @@\n+2\n",
    "cut short": HEADER + b"@@ -1,2 +1,2 @@\n 1\n",
    "hunks overlap": HEADER + b"@@ -2 +2 @@\n-2\n+x\n@@ -2 +2 @@\n-2\n+x\n",
    "other content": HEADER + b"@@ -1 +1 @@\n-9\n+x\n",
}


@pytest.mark.parametrize("patch", BAD_PATCHES.values(), ids=BAD_PATCHES)
def test_bad_patch_is_refused(patch: bytes) -> None:
    with pytest.raises(PatchError):
        apply_patch({"f": b"1\n2\n"}, patch)


def test_no_wheel_without_libraries_gets_into_the_users_cache() -> None:
    """Whoever installs llama-cpp-python without llama.cpp keeps pip from keeping the wheel."""
    pattern = re.compile(r"(?:NO_LLAMA_BUILD\)|LLAMA_BUILD=OFF)[^\n]*(?:\\\n[^\n]*)*")
    found = []
    for path in (*ROOT.glob("Makefile"), *ROOT.glob("*/*.mk"), *ROOT.rglob("docs/*.md"),
                 *ROOT.glob("README.md"), *ROOT.glob("pipeinfer_cli/cli/*.py")):  # fmt: skip
        commands = pattern.findall(path.read_text(encoding="utf-8"))
        found += [command for command in commands if "install" in command]
    assert len(found) >= 2
    assert [each for each in found if not re.search(r"--no-cache-dir|OWN_CACHE", each)] == []
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^OWN_CACHE +:= --cache-dir .*/pipeinfer/pip", makefile, re.MULTILINE)


def test_bindings_without_libraries_get_links_to_ours(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "llama_cpp" / "lib"
    ours.mkdir()
    theirs.parent.mkdir()
    for name in ("libllama.so", "libggml.so", "libggml-cpu-sse42.so", "libpipeinfer.so"):
        (ours / name).write_text(name)
    for _ in range(2):  # an older link is replaced
        linked = link_bindings.link(ours, theirs)
        assert linked == ["libggml-cpu-sse42.so", "libggml.so", "libllama.so"]
        assert [(theirs / name).read_text() for name in linked] == linked
    (theirs / "libllama.so").unlink()
    (theirs / "libllama.so").write_text("their own")
    assert link_bindings.link(ours, theirs) == []
    assert (theirs / "libllama.so").read_text() == "their own"
