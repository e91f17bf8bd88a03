"""The supervisor of a rank: waits for the process that works, and reports how it ended.

A rank forks before MPI starts: the process that the launcher knows waits for the one that works.
Launchers end the other ranks when one was killed, but few say which one it was, and once they have
begun, they report signals wrongly. What is made of a rank's end depends on who has started it:
- `spawn` (`enter_local`): the end is recorded, for the parent.
- A launcher (`enter_launched`): the supervisor reports it, if the rank was killed.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from pipeinfer_cli.errors import Interrupted
from pipeinfer_cli.launch import local_rank, report

PR_SET_PDEATHSIG = 1

FORWARDED = (*local_rank.ENDING_SIGNALS, signal.SIGUSR2)
PIPE_BYTES = 65536

# From the rank's pid, how it ended (negative: minus the signal that killed it), and the signals
# that were forwarded to it, to the supervisor's own exit code.
Ended = Callable[[int, int, Collection[int]], int]


def enter_local(place: Path, rank: int) -> None:
    """Makes this process a rank that `spawn` started. Call it before any thread or MPI."""

    def ended(pid: int, code: int, _forwarded: Collection[int]) -> int:
        if local_rank.parent_is_gone(wait=False):
            # Its owner no longer can; the last rank succeeds.
            local_rank.remove_shared_memory(place)
            shutil.rmtree(place, ignore_errors=True)
        elif code != 0:
            report.record_failure(place, report.Failure(rank=rank, pid=pid, code=code))
        return code if code >= 0 else 128 - code

    local_rank.connect(place, rank)
    _fork(ended)
    local_rank.begin(place, rank)


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervised:
    """A rank's ends of the pipes to its supervisor, as file descriptors."""

    notes: int  # to it: which shared memory MPI has made
    alive: int  # at its end when the supervisor is gone

    def begin(self, segments: Collection[str]) -> None:
        """MPI has made shared memory: whichever of the two processes is killed leaves none behind.

        From now on a thread ends the rank when its supervisor is gone, and has to run for it.
        """
        os.write(self.notes, os.fsencode("".join(f"{path}\n" for path in segments)))
        os.close(self.notes)
        die_with_parent(signal.SIGCONT)
        threading.Thread(target=self._follow, args=(segments,), daemon=True).start()

    def _follow(self, segments: Collection[str]) -> None:
        try:
            os.read(self.alive, 1)
            for path in segments:
                Path(path).unlink(missing_ok=True)
        finally:  # a rank that nobody watches would stay for ever
            os.kill(os.getpid(), signal.SIGKILL)


def enter_launched(rank: int) -> Supervised:
    """Makes this process a rank that a launcher started. Call it before any thread or MPI.

    If either process is killed, the other one ends, too.
    """
    notes, writer = os.pipe()
    alive, keeper = os.pipe()

    def ended(pid: int, code: int, forwarded: Collection[int]) -> int:
        os.close(writer)
        if -code in forwarded:
            raise Interrupted(-code)  # as in a rank without a supervisor
        if code >= 0:
            return code
        name = signal.Signals(-code).name
        report.say(
            f"rank {rank} on {socket.gethostname()} (pid {pid}) was killed by "
            f"signal {-code} ({name}); all ranks end"
        )
        for path in filter(None, os.fsdecode(os.read(notes, PIPE_BYTES)).split("\n")):
            Path(path).unlink(missing_ok=True)
        return 1

    supervisor_pid = os.getpid()
    _fork(ended)
    os.close(notes)
    os.close(keeper)
    # A session of its own: a signal to the launcher's process group would come twice.
    os.setsid()
    die_with_parent()  # the start of MPI may wait without end, and no thread runs meanwhile
    if os.getppid() != supervisor_pid:
        os._exit(1)
    return Supervised(notes=writer, alive=alive)


def die_with_parent(signum: signal.Signals = signal.SIGKILL) -> None:
    """Has the kernel send this process a signal when its parent is gone, even if it is stopped."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signum))


def _fork(ended: Ended) -> None:
    """Returns in the process that works; the one that was there before supervises it."""
    pid = os.fork()
    if pid != 0:
        _supervise(pid, ended)


def _supervise(pid: int, ended: Ended) -> NoReturn:
    forwarded: set[int] = set()

    def forward(signum: int, _frame: FrameType | None) -> None:
        forwarded.add(signum)
        local_rank.kill(pid, signum)

    for signum in FORWARDED:
        signal.signal(signum, forward)
    _, status = os.waitpid(pid, 0)
    os._exit(ended(pid, os.waitstatus_to_exitcode(status), forwarded))
