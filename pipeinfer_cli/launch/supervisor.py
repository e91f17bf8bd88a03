"""A rank's supervisor under an MPI launcher: reports how its rank ended, if that was killed.

Launchers end the other ranks when one was killed, but few say which one it was. So a rank forks
before MPI starts: the process that the launcher knows waits, and speaks for the one that works. To
a rank that `spawn` started, `local_rank.enter` does the same.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from pipeinfer_cli.errors import Interrupted
from pipeinfer_cli.launch import local_rank

PR_SET_PDEATHSIG = 1

FORWARDED = (*local_rank.ENDING_SIGNALS, signal.SIGUSR2)
PIPE_BYTES = 65536


def enter(rank: int) -> int:
    """Returns in the process that works; the one that was there before ends with its exit code.

    Call it before any thread or MPI. If either process is killed, the other one ends, too. What is
    returned is for `note`.
    """
    notes, writer = os.pipe()
    pid = os.fork()
    if pid != 0:
        os.close(writer)
        _guard(rank, pid, notes)
    os.close(notes)
    supervisor_pid = os.getppid()
    # A session of its own: a signal to the launcher's process group would come twice.
    os.setsid()
    die_with_parent()
    if os.getppid() != supervisor_pid:
        os._exit(1)
    return writer


def note(writer: int, segments: Iterable[str]) -> None:
    """Tells the supervisor which shared memory MPI has made: a killed rank leaves it behind."""
    os.write(writer, os.fsencode("".join(f"{path}\n" for path in segments)))
    os.close(writer)


def _guard(rank: int, pid: int, notes: int) -> NoReturn:
    received: set[int] = set()

    def forward(signum: int, _frame: FrameType | None) -> None:
        received.add(signum)
        local_rank.kill(pid, signum)

    for signum in FORWARDED:
        signal.signal(signum, forward)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if -code in received:
        raise Interrupted(-code)  # ours to say and to end with, as in a rank without a supervisor
    if code < 0:
        name = signal.Signals(-code).name
        print(
            f"pipeinfer: error: rank {rank} on {socket.gethostname()} (pid {pid}) was killed by "
            f"signal {-code} ({name}); all ranks end",
            file=sys.stderr,
            flush=True,
        )
        code = 1
        for path in filter(None, os.fsdecode(os.read(notes, PIPE_BYTES)).split("\n")):
            Path(path).unlink(missing_ok=True)
    os._exit(code)


def die_with_parent() -> None:
    """Has the kernel kill this process when its parent is gone, even while it is stopped."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
