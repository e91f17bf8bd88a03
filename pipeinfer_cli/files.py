"""Writing files where other users may write, too."""

from __future__ import annotations

import os
import stat
from io import TextIOWrapper
from pathlib import Path
from typing import Literal

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


def sync_folder(folder: Path) -> None:
    """Has the names in a folder reach the disk."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
