"""Opening files: nothing is waited for that is not a file."""

import os
import socket
import tempfile

import pytest

from pipeinfer_cli import files
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.launch import local_rank
from pipeinfer_cli.models import resolve, shards


@pytest.fixture(params=["fifo", "link to a fifo", "socket", "folder", "device"])
def no_file(request, tmp_path):
    path = tmp_path / "model.gguf"
    if request.param == "device":
        return "/dev/zero"
    if request.param == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
        return path
    if request.param == "folder":
        path.mkdir()
        return path
    os.mkfifo(tmp_path / "fifo")
    return (
        path.symlink_to("fifo") or path if request.param.startswith("link") else tmp_path / "fifo"
    )


@pytest.mark.timeout(20)
def test_what_is_not_a_file_is_not_opened(no_file):
    with pytest.raises(OSError, match=r"not a regular file|Is a directory|No such device"):
        files.open_file(no_file)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["{}", "{},{}"])
def test_a_fifo_is_no_model(name, tmp_path):
    path = tmp_path / "model.gguf"
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"cannot read the model .*: not a regular file"):
        resolve.resolve(name.format(path, path))
    with pytest.raises(UserError, match=r"cannot read the model .*: not a regular file"):
        shards.locate(path)


def test_a_file_is_opened(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    with files.open_file(path) as file:
        assert (file.read(2), file.tell()) == (b"ab", 2)


def test_no_place_for_temporary_files(monkeypatch):
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nonexistent"])
    with pytest.raises(UserError, match=r"TMPDIR is '/nonexistent'.*: set TMPDIR to one"):
        files.make_temporary_folder("test-")


def test_a_temporary_folder_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with files.temporary_folder("test-") as folder:
        (folder / "a").touch()
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_fifos(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "mkfifo", refuse)
    with pytest.raises(UserError, match=r"cannot make a FIFO in .*: set TMPDIR to"):
        local_rank.make_fifo(tmp_path / "stdout")
