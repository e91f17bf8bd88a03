"""Who reports a failure: each is printed once, in one line, by the process that knows most of it.

Who saw it -> who prints it:

- A process without other ranks: itself.
- A launcher's rank, before MPI has started (a bad option: all ranks meet it): rank 0. The others
  wait a moment before they end, since the first rank that ends takes the others down.
- A launcher's rank, once MPI runs: that rank; then it aborts the others.
- The supervisor of a launcher's rank that was killed: the supervisor.
- The watchdog, when another rank falls silent: its own rank. Of ranks that `spawn` started: the
  first that claims the report.
- A rank that `spawn` started: itself, if it is the first to claim the report. A rank that only ends
  by a launcher's signal, since another one has failed, does not claim it.
- The supervisor of a rank that `spawn` started: it records how the rank ended. The parent prints
  that, unless a rank has reported.
- The parent of local ranks (a signal, a launcher that failed, ranks that do not start, stdout that
  cannot be written): itself. What ranks find wrong once it ends them is not reported.

`speak` decides all this for an error, `say` for what is wrong elsewhere; the rest is the record of
local ranks, in their private folder.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeinfer_cli import streams
from pipeinfer_cli.console import printable
from pipeinfer_cli.errors import (
    Interrupted,
    OutputClosedError,
    PipeinferError,
    is_disk_full,
)
from pipeinfer_cli.launch import environment, local_rank
from pipeinfer_cli.log import LOG

SILENT_RANK_WAIT_S = 1.0
OUT_OF_MEMORY = b"pipeinfer: error: out of memory, also for saying more\n"
FAILURE_FILE = "failure.json"
REPORTED_FILE = "reported"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """How the first rank that failed ended."""

    rank: int
    pid: int
    code: int  # its exit code; negative: minus the signal that killed it


def speak(error: BaseException, *, verbose: bool) -> None:
    """Logs what this process ends with, and prints it if no other one does."""
    try:
        _speak(error, verbose)
    except MemoryError:
        with suppress(OSError):
            os.write(2, OUT_OF_MEMORY)


def _speak(error: BaseException, verbose: bool) -> None:
    level = logging.WARNING if isinstance(error, Interrupted) else logging.ERROR
    LOG.log(level, "%s", _line(error), exc_info=None if level < logging.ERROR else error)
    if isinstance(error, BrokenPipeError | OutputClosedError):
        return  # quietly, as SIGPIPE would
    if _speaks_for_all(error):
        if verbose and not isinstance(error, PipeinferError | Interrupted):
            traceback.print_exception(error)
        _print(_line(error))


def say(text: str) -> None:
    """Prints what is wrong with another process, unless a rank of `spawn`'s has reported."""
    place = local_rank.folder()
    if place is None or claim(place):
        _print(printable(text))


def _print(line: str) -> None:
    try:
        print(f"pipeinfer: error: {line}", file=sys.stderr, flush=True)
    except OSError:  # nobody can be told; the exit code tells
        streams.discard(2)


def _line(error: BaseException) -> str:
    if isinstance(error, Interrupted):
        how = f": {error.resume}" if error.resume else ""
        return f"interrupted by {signal.Signals(error.signum).name}{how}"
    text = printable(" ".join(str(error).split()))
    if isinstance(error, PipeinferError):
        return text
    if is_disk_full(error):
        return f"cannot write: {text}: free some space"
    return f"unexpected {type(error).__name__}: {text} (-v shows where)"


def _speaks_for_all(error: BaseException) -> bool:
    """Whether this process prints it."""
    place = local_rank.folder()
    if place is not None:
        failure = read_failure(place)
        if isinstance(error, Interrupted) and failure and failure.code != error.exit_code:
            return False  # when a rank has failed, launchers end the others with signals
        return claim(place)
    if environment.is_mpi_running() or environment.detect(os.environ).rank == 0:
        return True
    time.sleep(SILENT_RANK_WAIT_S)
    return False


# The record of local ranks.


def claim(place: Path) -> bool:
    """True for the one rank that reports the failure: the first that asks."""
    try:
        (place / REPORTED_FILE).touch(exist_ok=False)
    except OSError:
        return False
    return True


def silence_ranks(place: Path) -> None:
    """The parent's part: from now on it reports what went wrong, unless a rank has done so."""
    try:
        with (place / REPORTED_FILE).open("x") as note:
            note.write("parent")
    except FileExistsError:
        pass


def has_reported(place: Path) -> bool:
    """Whether a rank has."""
    file = place / REPORTED_FILE
    return file.exists() and not file.read_text()


def has_ended_job(place: Path) -> bool:
    """Whether a rank has ended the job by itself, and has reported why."""
    failure = read_failure(place)
    return failure is not None and failure.code > 0 and has_reported(place)


def record_failure(place: Path, failure: Failure) -> None:
    """Keeps the first failure of the job; later ones are its consequences."""
    draft = place / f"failure-{os.getpid()}"
    try:
        draft.write_text(
            json.dumps({"rank": failure.rank, "pid": failure.pid, "code": failure.code})
        )
        os.link(draft, place / FAILURE_FILE)  # atomic, and fails if there is one already
    except OSError:
        pass  # not the first, or the parent and its folder are gone


def record_own_failure(place: Path, code: int) -> None:
    """Of this rank, which ends with this exit code."""
    rank = environment.detect(os.environ).rank  # MPI may be in no state to be asked
    record_failure(place, Failure(rank=rank, pid=os.getpid(), code=code))


def has_failed(place: Path) -> bool:
    """Whether a rank has."""
    return (place / FAILURE_FILE).exists()


def read_failure(place: Path) -> Failure | None:
    """The first failure of the job, if there was one."""
    try:
        return Failure(**json.loads((place / FAILURE_FILE).read_text()))
    except FileNotFoundError:
        return None
