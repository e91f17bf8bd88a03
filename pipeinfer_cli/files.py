"""Writing files where other users may write, too."""

from __future__ import annotations

import os
import stat
from io import TextIOWrapper
from pathlib import Path
from typing import Literal


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
