"""Lines of results, and the file that gets them: whole lines only, whatever happens."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeinfer_cli import files
from pipeinfer_cli.commands.batch import origin
from pipeinfer_cli.commands.batch.items import BadItem, Item, ItemId
from pipeinfer_cli.commands.batch.lines import LineForm
from pipeinfer_cli.errors import OutputError, RunError, UserError

# The ranks of a killed job may live so long: what they have begun to write comes first.
LOCK_WAIT_S = 15.0
LOCK_POLL_S = 0.05
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def to_line(fields: Mapping[str, Any]) -> bytes:
    """JSON with a newline. The first key has the item's id, which `check_lines` relies on."""
    first, *_ = fields
    assert first.endswith("id")
    return json.dumps(fields, ensure_ascii=False).encode() + b"\n"


class Sink(Protocol):
    """Where lines go."""

    def write(self, line: bytes) -> None:
        """Adds a line with its newline. RunError if it cannot be written; no half line is left."""

    def close(self) -> None:
        """No more lines."""


class StdoutSink:
    """For a batch without a file."""

    def write(self, line: bytes) -> None:
        """Adds a line."""
        try:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(error) from None

    def close(self) -> None:
        """Nothing to do."""


@dataclass(slots=True)
class ResumePoint:
    """What a file has already."""

    n_items: int = 0
    n_failed: int = 0  # of these
    n_unknown: int = 0  # of these, without a record of what they were made from
    size: int = 0  # bytes, of whole lines
    n_cut: int = 0  # bytes after that


class FileSink:
    """Adds lines to a file: each in one write, on the disk before the next one begins."""

    def __init__(self, path: Path, fd: int, size: int) -> None:
        self._path, self._fd, self._size = path, fd, size

    @classmethod
    def create(cls, path: Path) -> FileSink:
        """A new file. UserError if it exists, or cannot be created."""
        fd = _open(path, os.O_CREAT | os.O_EXCL)
        sink = cls(path, fd, 0)
        _lock(fd, path)
        _sync_name(path)
        return sink

    @classmethod
    def resume(
        cls, path: Path, items: Sequence[Item | BadItem], form: LineForm
    ) -> tuple[FileSink, ResumePoint]:
        """Continues a file after its last complete line; what follows is truncated.

        UserError, and the file as it was, unless it was written for the same items, with the same
        model and options.
        """
        fd = _open(path, 0)
        try:
            _lock(fd, path)
            with os.fdopen(os.dup(fd), "rb") as file:
                resume_point = check_lines(path, file, items, form)
            if resume_point.n_cut:
                os.ftruncate(fd, resume_point.size)
                os.fsync(fd)
        except BaseException:
            os.close(fd)
            raise
        return cls(path, fd, resume_point.size), resume_point

    def write(self, line: bytes) -> None:
        """Adds a line."""
        try:
            rest = line
            while rest:  # in one piece, but for a full disk or the like
                rest = rest[os.write(self._fd, rest) :]
            os.fsync(self._fd)
        except OSError as error:
            self._cut()
            raise RunError(
                f"cannot write to {str(self._path)!r}: {error.strerror}: it has only "
                "complete lines; --resume continues"
            ) from None
        self._size += len(line)

    def close(self) -> None:
        """Closes the file."""
        os.close(self._fd)

    def _cut(self) -> None:
        """Takes back what was written of a line."""
        try:
            os.ftruncate(self._fd, self._size)
        except OSError:
            pass  # `resume` does it later


def check_lines(
    path: Path, file: Any, items: Sequence[Item | BadItem], form: LineForm
) -> ResumePoint:
    """What the file has of the results of these items. UserError if it is another's."""
    resume_point = ResumePoint()
    for line in file:
        if resume_point.n_items == len(items):
            raise _foreign(path, f"it has more lines than the {len(items)} items")
        item = items[resume_point.n_items]
        item_id = form.id_of(item)
        number = resume_point.n_items + 1
        if not line.endswith(b"\n"):
            resume_point.n_cut = len(line)
            if not _may_begin(line, form.id_key, item_id):
                raise _foreign(
                    path, f"line {number} is truncated, and does not belong to the item {item_id!r}"
                )
            break
        found = _fields(line)
        if found is None or not form.is_result(found):
            raise _foreign(path, f"line {number} is not a result in the form of this --format")
        found_id = found[form.id_key]
        if not same_id(found_id, item_id):
            raise _foreign(path, f"line {number} belongs to the item {found_id!r}, not {item_id!r}")
        made_from = found.get(origin.KEY)
        if not isinstance(made_from, dict):
            resume_point.n_unknown += 1
        elif differs := origin.differences(made_from, form.origins.of(item)):
            raise UserError(
                f"--resume: line {number} of {str(path)!r} was made with {', '.join(differs)}: "
                "give the same model, items and options, or another --output"
            )
        resume_point.n_items += 1
        resume_point.n_failed += found.get("error") is not None
        resume_point.size += len(line)
    return resume_point


def same_id(a: Any, b: ItemId) -> bool:
    """Whether two ids are the same: 1 and 1.0 and "1" are not."""
    return type(a) is type(b) and bool(a == b)


def _sync_name(path: Path) -> None:
    """Has a new file's name reach the disk; some file systems cannot."""
    with contextlib.suppress(OSError):
        files.sync_folder(path.absolute().parent)


def check_new(path: Path) -> None:
    """UserError if `FileSink.create` would fail, as far as one can tell."""
    if os.path.lexists(path):
        raise _exists(path)
    files.check_writable("--output", path)


def _open(path: Path, flags: int) -> int:
    """For appending. In a folder that everybody may write to, no link is followed."""
    flags |= os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
    try:
        fd = files.opener(str(path), flags)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        is_link = path.is_symlink()
        why = "it is a link: name the file itself" if is_link else error.strerror
        kind = RunError if error.errno in DISK_ERRORS else UserError
        raise kind(f"--output {str(path)!r}: {why}") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise UserError(f"--output {str(path)!r}: not a regular file")
    return fd


def _exists(path: Path) -> UserError:
    return UserError(
        f"--output {str(path)!r}: it exists: give --resume to continue it, or another name"
    )


def _lock(fd: int, path: Path) -> None:
    """Waits for other writers to end. UserError if they do not."""
    deadline_s = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                raise UserError(
                    f"--output {str(path)!r}: another job is writing to it: wait until it ends"
                ) from None
            time.sleep(LOCK_POLL_S)
        except OSError:
            return  # a file system without locks


def _fields(line: bytes) -> dict[str, Any] | None:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def _may_begin(line: bytes, id_key: str, item_id: ItemId) -> bool:
    """Whether a half line can be the item's. After a crash there may be zeros in place of it."""
    begun = line.rstrip(b"\0")
    start = to_line({id_key: item_id}).rstrip(b"}\n")
    return begun.startswith(start) or start.startswith(begun)


def _foreign(path: Path, why: str) -> UserError:
    return UserError(
        f"--resume: {str(path)!r} was not written for these items ({why}): give the same "
        "--prompts, or another --output"
    )
