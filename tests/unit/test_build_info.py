"""Where the native library is: in the package's one folder, or beside an editable install's."""

import pytest

import pipeinfer_cli
from pipeinfer_cli.engine import build_info


@pytest.mark.parametrize("has_library", [0, 1])
def test_lib_dir_is_where_the_build_is(has_library, tmp_path, monkeypatch):
    folders = [tmp_path / "sources", tmp_path / "installed"]
    for folder in folders:
        (folder / "lib").mkdir(parents=True)
    (folders[has_library] / "lib" / "build.json").touch()
    monkeypatch.setattr(pipeinfer_cli, "__path__", list(map(str, folders)))
    assert build_info._lib_dir() == folders[has_library] / "lib"


def test_lib_dir_before_a_build_is_in_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeinfer_cli, "__path__", [str(tmp_path)])
    assert build_info._lib_dir() == tmp_path / "lib"
