"""A rank's guardian under an MPI launcher: says how its rank ended, if that was killed.

Launchers end the other ranks when one was killed, but few say which one it was. So a rank forks
before MPI starts: the process that the launcher knows waits, and speaks for the one that works. To
a rank that `spawn` started, `spawned.enter` does the same.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
from types import FrameType
from typing import NoReturn

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def enter(rank: int) -> None:
    """Returns in the process that works; the one that was there before ends with its exit code.

    Call it before any thread or MPI. If either process is killed, the other one ends, too.
    """
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid != 0:
        os.close(ours)
        _guard(rank, pid)
    os.close(theirs)
    # A session of its own: a signal to the launcher's process group would come twice.
    os.setsid()
    threading.Thread(target=_watch, args=(ours,), name="guardian", daemon=True).start()


def _guard(rank: int, pid: int) -> NoReturn:
    for signum in FORWARDED:
        signal.signal(signum, lambda received, _frame: _kill(pid, received))
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        name = signal.Signals(-code).name
        print(
            f"pipeinfer: error: rank {rank} on {socket.gethostname()} (pid {pid}) was killed by "
            f"signal {-code} ({name}); all ranks end",
            file=sys.stderr,
            flush=True,
        )
        code = 1
    os._exit(code)


def _kill(pid: int, signum: int, _frame: FrameType | None = None) -> None:
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        pass


def _watch(guardian: int) -> None:
    """Its guardian's end of the pipe is closed when it is gone: nobody looks after us any more."""
    poller = select.poll()
    poller.register(guardian, 0)  # the end is reported without being asked for
    poller.poll()
    os.kill(os.getpid(), signal.SIGKILL)
