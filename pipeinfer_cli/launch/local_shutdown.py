"""Ends a job on this machine before its work is done, and leaves nothing of it behind."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import time
from enum import Enum, auto
from pathlib import Path

from pipeinfer_cli.launch import local_output, local_rank, report

HEAD_GRACE_S = 5.0  # what rank 0 gets after a signal, to end between two tokens
GRACE_S = 2.0  # what ranks and launcher get to end by themselves, before SIGKILL
KILL_S = 4.0  # how long we insist on SIGKILL


class Phase(Enum):
    """Where a job is on its way to its end."""

    RUNNING = auto()
    HEAD_ENDS = auto()  # rank 0 has the signal, and may end the job between two tokens
    ALL_END = auto()  # the ranks end by themselves, or since the launcher was asked to end them
    GIVEN_UP = auto()  # what is left of them gets SIGKILL


class JobShutdown:
    """Why and how a job ends before its work is done: `step` it, and look at its `phase`.

    A signal leads to HEAD_ENDS; a rank that has failed, a reader that went away, or a head that
    does not end in time to ALL_END; the end of that time, or a second signal, to GIVEN_UP.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        place: Path,
        received: list[int],
        out: local_output.OutputForwarder,
        *,
        grace_s: float = 0.0,
    ) -> None:
        """`grace_s`: what a head that listens gets besides HEAD_GRACE_S."""
        self.phase = Phase.RUNNING
        self.received = received  # signals, as they come
        self._process, self._place, self._out = process, place, out
        self._grace_s = HEAD_GRACE_S + grace_s
        self._until_s = math.inf  # the end of the phase

    def step(self, now_s: float) -> None:
        """Enters the next phase if it is time."""
        if self.phase is Phase.RUNNING and self.received:
            listens = local_rank.tell_head(self._place, self.received[0])
            self._enter(Phase.HEAD_ENDS, now_s + (self._grace_s if listens else 0))
        if self.phase is not Phase.ALL_END and self._must_end(now_s):
            self._enter(Phase.ALL_END, now_s + GRACE_S)
            _note_shared_memory(self._place)
            _ask_to_end(self._process, self._place, self.received, self._out.closed)
        elif now_s > self._until_s or len(self.received) > 1:  # asked twice: at once
            self._enter(Phase.GIVEN_UP, math.inf)

    def _must_end(self, now_s: float) -> bool:
        return now_s >= self._until_s or self._out.closed or report.has_failed(self._place)

    def _enter(self, phase: Phase, until_s: float) -> None:
        self.phase, self._until_s = phase, until_s


def _ask_to_end(
    process: subprocess.Popen[bytes], place: Path, received: list[int], closed: bool
) -> None:
    """Asks the launcher to end the ranks, unless they are about to end by themselves."""
    failure = report.read_failure(place)
    if failure is not None and failure.code >= 0 and not closed:
        return
    report.silence_ranks(place)
    # hydra would die of SIGHUP and leave the ranks alone, and pass SIGUSR1 on
    is_plain = bool(received) and received[0] in (signal.SIGINT, signal.SIGTERM)
    process.send_signal(received[0] if is_plain else signal.SIGTERM)


def kill_stragglers(place: Path) -> None:
    """Kills every process that carries the job's marker, wherever launchers have put it."""
    _note_shared_memory(place)
    deadline_s = time.monotonic() + KILL_S
    while (pids := marked_processes(place)) and time.monotonic() < deadline_s:
        for pid in pids:
            with contextlib.suppress(OSError):  # it has just ended
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _note_shared_memory(place: Path) -> None:
    """What the living ranks have mapped by now; what they made at start they noted themselves."""
    for pid in marked_processes(place):
        with contextlib.suppress(OSError, ValueError):  # it has just ended; SIGKILL comes anyway
            local_rank.record_shared_memory(place, pid)


def marked_processes(place: Path) -> list[int]:
    """The processes that were started with this private folder in their environment.

    Ranks have sessions and process groups of their own, so that nothing else finds them all.
    """
    marker = os.fsencode(f"{local_rank.SPAWN_DIR}={place}")
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if marker in entry.read_bytes().split(b"\0"):
                found.append(int(entry.parent.name))
        except OSError:
            continue  # has just ended, or another user's
    return found
