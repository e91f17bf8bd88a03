"""The watchdog: a thread that exchanges signs of life with other ranks while a job runs.

A verdict ends the job on the rank that comes to it: by an exception in the main thread, if that is
waiting for the engine; else (it is in a collective call of MPI, or blocked by a full pipe) the
thread says it and ends the job itself.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Protocol

from pipeinfer_cli.engine.engine import Activity
from pipeinfer_cli.errors import RunError
from pipeinfer_cli.launch.environment import resident_bytes
from pipeinfer_cli.launch.watchdog.failure_detector import FailureDetector, silence_s
from pipeinfer_cli.launch.watchdog.heartbeat import Heartbeat, Phase
from pipeinfer_cli.launch.watchdog.shutdown import ShutdownBarrier

HEARTBEATS_PER_SILENCE = 8
MAX_TICK_S = 1.0
ENDING_TICK_S = 0.005
HELD_UP_TICKS = 3  # if later than this, this process was stopped: no rank is blamed
# What the main thread gets to react to a verdict.
GRACE_S = 2.0


class HeartbeatChannel(Protocol):
    """What the watchdog needs of mpi.HeartbeatChannel."""

    def send(self, rank: int, data: bytes, *, must: bool = False) -> None:
        """Sends it, unless the one before is still under way (and it need not be)."""

    def receive(self) -> list[tuple[int, bytes]]:
        """What has come since: the sender's rank and the message, in order."""

    def close(self) -> None:
        """Nothing more will be sent or received."""


class Watched(Protocol):
    """What the watchdog needs of engine.Engine. All calls are for any thread."""

    watched: bool

    def give_up(self, message: str) -> None:
        """Has the engine's waiting calls raise RunError."""

    def activity(self) -> Activity:
        """What the engine is at."""


class Watchdog:
    """One rank's. Use it as a context manager around a job, `channel` None for a rank alone."""

    def __init__(
        self,
        channel: HeartbeatChannel | None,
        *,
        rank: int = 0,
        n_ranks: int = 1,
        timeout_s: float,
        end: Callable[[str], object],
    ) -> None:
        self._channel = channel
        self._rank = rank
        self._others = list(range(1, n_ranks)) if rank == 0 else [0]
        self._detector = FailureDetector(
            rank, self._others, timeout_s=timeout_s, now_s=time.monotonic()
        )
        self._barrier = ShutdownBarrier(self._detector, is_head=rank == 0)
        self._tick_s = min(MAX_TICK_S, silence_s(timeout_s) / HEARTBEATS_PER_SILENCE)
        self._end = end
        self._host = socket.gethostname()
        self._lock = threading.Lock()  # over what both threads touch
        self._phase = Phase.STARTING
        self._engine: Watched | None = None
        self._verdict: str | None = None
        self._ending_s = 0.0
        self._wake = threading.Event()
        self._over = threading.Event()  # the shutdown barrier is passed, or there is a verdict
        self._left = threading.Event()  # the main thread has left the job
        self._thread = threading.Thread(target=self._loop, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._wake.set()
        self._thread.join(timeout=GRACE_S)

    def place(self, places: Sequence[str], first_stage: int) -> None:
        """What each rank holds, in words: see FailureDetector.place."""
        with self._lock:
            self._detector.place(places, first_stage)

    def enter(self, phase: Phase) -> None:
        """This rank's job comes to another phase."""
        with self._lock:
            self._phase = phase
        self._wake.set()

    @contextmanager
    def over(self, engine: Watched) -> Iterator[None]:
        """Watches the engine, too, while the block runs."""
        with self._lock:
            self._engine = engine
            engine.watched = True
        self.enter(Phase.RUNNING)
        try:
            yield
        finally:
            with self._lock:
                self._engine = None

    def barrier(self) -> None:
        """This rank's part is done: waits for the others. RunError if one does not end."""
        if self._channel is None:
            return
        self._ending_s = time.monotonic()
        self.enter(Phase.ENDING)
        self._over.wait()
        if self._verdict is not None:
            raise RunError(self._verdict)

    def _loop(self) -> None:
        try:
            self._watch()
        except Exception as error:  # noqa: BLE001 (MPI's, of a lost link: nobody is heard any more)
            name = f"rank {self._rank} on {self._host}"
            self._decide(f"{name} can no longer exchange signs of life: {_one_line(error)}")
        if self._channel is not None:
            with suppress(Exception):  # of a lost link, too, or of a job that is over anyway
                self._channel.close()
        if self._verdict is not None and not self._left.wait(GRACE_S):
            self._end(self._verdict)

    def _watch(self) -> None:
        turned_s = time.monotonic()
        while not self._left.is_set() and not self._over.is_set():
            ending = self._phase == Phase.ENDING
            self._wake.wait(ENDING_TICK_S if ending else self._tick_s)
            self._wake.clear()
            now_s = time.monotonic()
            if now_s - turned_s > HELD_UP_TICKS * self._tick_s:
                with self._lock:
                    self._detector.reset_timers(now_s)
            turned_s = now_s
            self._turn(now_s)

    def _turn(self, now_s: float) -> None:
        with self._lock:
            heartbeat = self._heartbeat()
            self._detector.hear(self._rank, heartbeat, now_s)
            self._exchange(heartbeat, now_s)
            verdict = self._detector.verdict(now_s)
            if self._phase == Phase.ENDING:
                verdict = verdict or self._detector.not_ending(now_s, self._ending_s)
        if verdict is not None:
            self._decide(verdict)

    def _decide(self, verdict: str) -> None:
        """The job ends, unless it is over already."""
        with self._lock:
            if self._over.is_set():
                return
            self._verdict = verdict
            self._over.set()
            if self._engine is not None:
                self._engine.give_up(verdict)

    def _heartbeat(self) -> Heartbeat:
        if self._engine is not None:
            return Heartbeat(phase=self._phase, host=self._host, **asdict(self._engine.activity()))
        moved = resident_bytes() if self._phase == Phase.LOADING else 0
        return Heartbeat(phase=self._phase, moved=moved, host=self._host)

    def _exchange(self, heartbeat: Heartbeat, now_s: float) -> None:
        if self._channel is None:
            return
        for rank, data in self._channel.receive():
            self._detector.hear(rank, Heartbeat.decode(data), now_s)
        if (message := self._barrier.message(heartbeat)) is not None:
            for rank in self._others:
                self._channel.send(rank, message.encode(), must=message.phase == Phase.GONE)
        if self._barrier.is_over:
            self._over.set()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
