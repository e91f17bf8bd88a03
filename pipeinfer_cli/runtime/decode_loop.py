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

    def turn(self) -> Decided[Key]:
        """Schedules and submits, and waits for at most one result: what it has decided."""
        if self._exchange.is_idle:  # nothing was due while the caller wrote what came before
            self._heard_s = time.monotonic()
        self._exchange.take_drafts()
        self._exchange.submit()
        return self._wait()

    def drain(self) -> None:
        """The texts are over: sends their cancels, and waits for what is in flight."""
        self._exchange.submit()
        while not self._exchange.is_idle:
            self._wait()

    def _wait(self) -> Decided[Key]:
        result = self._result()
        return [] if result is None else self._exchange.on_result(result, time.monotonic())

    def _result(self) -> Result | None:
        """The next one, or None after a while, or when a draft has come."""
        is_due = not self._exchange.is_idle
        result = self._pipeline.wait(POLL_S)
        now_s = time.monotonic()
        if result is not None or not is_due:
            self._heard_s = now_s
        elif now_s > self._heard_s + self._timeout_s:
            raise RunError(
                f"no result for {self._timeout_s:g} s: a stage hangs or is slower than that "
                "(--timeout)"
            )
        return result
