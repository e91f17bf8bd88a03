"""What a person has typed in conversations, over sessions: a file in our cache."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from pipeinfer_cli import files
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.models.catalogue import cache_dir

VARIABLE = "PIPEINFER_CHAT_HISTORY"  # another file; empty: none
NAME = "chat-history.jsonl"
MAX_MESSAGES = 1000  # the last ones


def history_path(env: Mapping[str, str]) -> Path | None:
    """The file, or None if there shall be none."""
    if (chosen := env.get(VARIABLE)) is not None:
        return files.expanded(chosen) if chosen else None
    try:
        return cache_dir(env) / NAME
    except UserError:
        return None  # no home folder


class History:
    """Messages, a JSON string in each line. A file that cannot be used is left alone."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def load(self) -> list[str]:
        """The last messages, the newest one last."""
        if self._path is None:
            return []
        try:
            with files.open_file(self._path) as file:
                lines = file.read().splitlines()
        except OSError:
            return []
        messages = [text for text in map(_message, lines) if text is not None]
        if len(messages) > 2 * MAX_MESSAGES:
            self._shorten(messages[-MAX_MESSAGES:])
        return messages[-MAX_MESSAGES:]

    def add(self, message: str) -> None:
        """Adds a message, for its user's eyes only."""
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open(self._path, "ab", opener=_opener) as file:
                file.write(_line(message))
        except OSError:
            pass  # a conversation works without

    def _shorten(self, messages: list[str]) -> None:
        """In place of the file, so that no reader sees half of it."""
        assert self._path is not None
        new = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            with open(new, "wb", opener=_opener) as file:
                file.writelines(map(_line, messages))
            new.replace(self._path)
        except OSError:
            new.unlink(missing_ok=True)


def _opener(path: str, flags: int) -> int:
    """A file of the user's own; OSError if it is something else, as /dev/null."""
    fd = files.opener(path, flags | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        os.fchmod(fd, 0o600)
    except OSError:
        os.close(fd)
        raise
    return fd


def _line(message: str) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _message(line: bytes) -> str | None:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, str) else None
