"""The head's loop by the clock: schedule, submit, wait. What flows is in scheduler/exchange.py."""

from __future__ import annotations

import time
from collections.abc import Hashable
from typing import Generic, TypeVar

from pipeinfer_cli.errors import RunError
from pipeinfer_cli.scheduler.exchange import Decided, Exchange
from pipeinfer_cli.scheduler.interfaces import Pipeline
from pipeinfer_cli.scheduler.runs import Result

Key = TypeVar("Key", bound=Hashable)
POLL_S = 0.1  # how long Python may sleep in C: signals are handled in between


class DecodeLoop(Generic[Key]):
    """Drives one request (token_stream.py) or several (token_streams.py), turn by turn.

    RunError if a stage fails, or no result comes for `timeout_s` although one is due.
    """

    def __init__(self, pipeline: Pipeline, exchange: Exchange[Key], *, timeout_s: float) -> None:
        """The exchange is with this pipeline."""
        self._pipeline = pipeline
        self._exchange = exchange
        self._timeout_s = timeout_s
        self._heard_s = time.monotonic()  # when a result last came, or none was due
        self._submit_s = 0.0  # when runs were last asked for

    def turn(self) -> Decided[Key]:
        """Schedules and submits, and waits for at most one result: what it has decided."""
        if self._exchange.is_idle:  # nothing was due while the caller wrote what came before
            self._heard_s = time.monotonic()
        self._exchange.take_drafts()
        self._submit()
        return self._wait()

    def drain(self) -> None:
        """The texts are over: sends their cancels, and waits for what is in flight."""
        self._submit()
        while not self._exchange.is_idle:
            self._wait()

    def _submit(self) -> None:
        self._submit_s = time.monotonic()
        self._exchange.submit(self._submit_s)

    def _wait(self) -> Decided[Key]:
        result = self._result()
        return [] if result is None else self._exchange.on_result(result, time.monotonic())

    def _result(self) -> Result | None:
        """The next one, or None after a while, when a draft has come, or when a run may leave."""
        is_due = not self._exchange.is_idle
        wait_s, wake_s = POLL_S, self._exchange.wake_s
        if wake_s > self._submit_s:  # else the run would have left already
            wait_s = min(max(wake_s - time.monotonic(), 0.0), POLL_S)
        result = self._pipeline.wait(wait_s)
        now_s = time.monotonic()
        if result is not None or not is_due:
            self._heard_s = now_s
        elif now_s > self._heard_s + self._timeout_s:
            raise RunError(
                f"no result for {self._timeout_s:g} s: a stage hangs or is slower than that "
                "(--timeout)"
            )
        return result
