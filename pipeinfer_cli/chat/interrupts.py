"""Ctrl-C while an answer comes: it ends the answer, not the conversation; a second one does that.

With local ranks the terminal is our parent's: it passes Ctrl-C on, see spawn_talk.Talk.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from pipeinfer_cli import spawned
from pipeinfer_cli.errors import Interrupted
from pipeinfer_cli.native import Engine
from pipeinfer_cli.runs import Result, Run


class AnswerInterrupted(Interrupted):
    """The person has heard enough of this answer."""


class Interrupts:
    """Takes note of what asks for an answer's end, while it comes."""

    def __init__(self) -> None:
        self.is_asked = False
        self.has_begun = False  # before, what the answer before has left in flight is waited for
        self._signum = signal.SIGINT
        if spawned.folder() is not None:
            self._signum = spawned.ANSWER_SIGNAL
            signal.signal(self._signum, signal.SIG_IGN)  # one that comes just after an answer

    @contextmanager
    def answering(self) -> Iterator[None]:
        """While the block runs."""
        self.is_asked = self.has_begun = False
        before = signal.signal(self._signum, self._on_signal)
        try:
            yield
        finally:
            self.is_asked = False
            signal.signal(self._signum, before)

    def _on_signal(self, signum: int, _frame: FrameType | None) -> None:
        if self.is_asked and signum == signal.SIGINT:
            raise Interrupted(signum)
        self.is_asked = True


class InterruptibleEngine:
    """An engine whose `wait` ends an answer between two results: nothing is lost of either."""

    def __init__(self, engine: Engine, interrupts: Interrupts) -> None:
        self._engine = engine
        self._interrupts = interrupts

    def submit(self, run: Run) -> None:
        """See native.Engine."""
        self._interrupts.has_begun = True
        self._engine.submit(run)

    def wait(self, timeout_s: float) -> Result | None:
        """See native.Engine. Raises AnswerInterrupted."""
        if self._interrupts.is_asked and self._interrupts.has_begun:
            raise AnswerInterrupted(signal.SIGINT)
        return self._engine.wait(timeout_s)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)
