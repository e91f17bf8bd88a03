"""Files: opening those that are to be read, writing where other users may write, too."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import BinaryIO, Literal

from pipeinfer_cli.errors import UserError


def is_folder(path: str | Path) -> bool:
    """Whether it is one that may be looked at.

    Path.is_dir and Path.exists raise OSError, until Python 3.14, for a name that is too long, or in
    a folder that may not be searched.
    """
    try:
        return Path(path).is_dir()
    except OSError:
        return False


def is_there(path: str | Path) -> bool:
    """Whether there is something of that name that may be looked at; see `is_folder`."""
    try:
        return Path(path).exists()
    except OSError:
        return False


def expanded(path: str | Path) -> Path:
    """With the user's home folder for ~; a user that nobody knows stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def open_file(path: Path) -> BinaryIO:
    """Opens a file for reading. OSError also if it is not a file: a FIFO would be waited for."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(fd, "rb")
    os.close(fd)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    raise OSError(errno.EINVAL, "not a regular file")


def make_temporary_folder(prefix: str) -> Path:
    """A new folder that only this user can look at. UserError if there is no place for it."""
    try:
        return Path(tempfile.mkdtemp(prefix=prefix))  # 0700
    except FileNotFoundError:
        raise UserError(
            f"no folder for temporary files can be written to (TMPDIR is "
            f"{os.environ.get('TMPDIR', 'not set')!r}): set TMPDIR to one that can"
        ) from None


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """One that exists while the block runs; see `make_temporary_folder`."""
    folder = make_temporary_folder(prefix)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_writable(option: str, file: str | Path) -> None:
    """UserError if a file that `option` names cannot be written, as far as one can tell."""
    folder = Path(file).absolute().parent
    if not is_folder(folder):
        raise UserError(f"{option} {str(file)!r}: there is no such folder")
    if is_folder(file):
        raise UserError(f"{option} {str(file)!r}: it is a folder: give the name of a file")
    if not os.path.lexists(file):
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"{option} {str(file)!r}: its folder cannot be written to")
    elif not os.access(file, os.W_OK):
        raise UserError(f"{option} {str(file)!r}: it cannot be written to")


def open_text(path: Path, mode: Literal["a", "w"]) -> TextIOWrapper:
    """Opens a text file for writing. OSError, also where `opener` does not follow a link."""
    return open(path, mode, encoding="utf-8", errors="replace", opener=opener)


def opener(path: str, flags: int) -> int:
    """For `open(..., opener=)`: in a folder that everybody may write to, no link is followed.

    Somebody else could have put it there, to have us write elsewhere. The user's umask applies.
    """
    if Path(path).absolute().parent.stat().st_mode & stat.S_IWOTH:
        flags |= os.O_NOFOLLOW
    return os.open(path, flags, 0o666)


def write_text(path: Path, text: str) -> None:
    """Writes a whole file, see `open_text`."""
    with open_text(path, "w") as file:
        file.write(text)


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Another file while the block writes it, which then takes the place of `path`. OSError.

    So nobody sees half of it. The folder is made if it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    yield unfinished
    unfinished.replace(path)


def sync_folder(folder: Path) -> None:
    """Has the names in a folder reach the disk."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
