"""Libraries in this process: those of other folders are found by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeinfer_cli.engine import loaded
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.launch.host.mpi_info import MpiInfo


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    folder = tmp_path / "ours"
    folder.mkdir()
    for name in ("libggml-base.so", "libmpi.so.12"):
        (folder / name).touch()
    (tmp_path / "link").symlink_to(folder)
    return folder


def test_ours_pass_by_any_name(ours: Path, tmp_path: Path) -> None:
    mapped = [
        str(ours / "libggml-base.so"),
        str(tmp_path / "link" / "libmpi.so.12"),
        f"{ours / 'libggml-base.so'} (deleted)",
        "/usr/lib/libc.so.6",
        "/usr/lib/libggml-other.so",
        "[stack]",
    ]
    loaded.check(ours.iterdir(), mapped)


@pytest.mark.parametrize("name", ["libggml-base.so", "libmpi.so.12"])
def test_another_of_the_same_name_is_named(
    name: str, ours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/foreign/x.so")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    with pytest.raises(UserError, match=f"^/foreign/{name} was loaded in place of") as raised:
        loaded.check(ours.iterdir(), [str(ours / "libmpi.so.12"), f"/foreign/{name}"])
    assert str(raised.value).endswith("unset LD_PRELOAD (/foreign/x.so)")


def test_remedy() -> None:
    assert loaded.remedy({"LD_LIBRARY_PATH": ""}) == "install the package again"
    env = {"LD_LIBRARY_PATH": "/a", "LD_PRELOAD": "/b"}
    assert loaded.remedy(env, "x") == "unset LD_LIBRARY_PATH (/a) and LD_PRELOAD (/b)"


def test_of_a_wheel_only_its_own_files_are_ours(tmp_path: Path) -> None:
    """It may lie in a folder of other libraries, such as a conda environment's."""
    names = ("libmpi.so.12", "libstdc++.so.6", "mpich/libucp.so.0", "mpich/libfabric.so.1")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    path = str(tmp_path / "libmpi.so.12")
    mpi = MpiInfo(kind="wheel", family="mpich", version="5.0", abi="mpich", path=path)
    found = [str(path.relative_to(tmp_path)) for path in mpi.wheel_libraries]
    assert found == ["libmpi.so.12", "mpich/libfabric.so.1", "mpich/libucp.so.0"]
    assert replace(mpi, kind="system").wheel_libraries == []
