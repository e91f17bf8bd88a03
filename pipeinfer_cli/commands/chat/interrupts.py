"""Ctrl-C while an answer comes: it ends the answer, not the conversation; a second one does that.

With local ranks the terminal is our parent's: it passes Ctrl-C on, see local_input.StdinForwarder.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from pipeinfer_cli.launch import local_rank
from pipeinfer_cli.launch.signals import StopRequest


class Interrupts:
    """Takes note of what asks for an answer's end, while it comes."""

    def __init__(self) -> None:
        self._stop_request = StopRequest()
        self._signum = signal.SIGINT
        if local_rank.folder() is not None:
            self._signum = local_rank.ANSWER_SIGNAL
            signal.signal(self._signum, signal.SIG_IGN)  # one that comes just after an answer

    def __call__(self) -> bool:
        """Whether the answer that is under way shall end."""
        return self._stop_request()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """While the block runs: the first signal is noted, a second one raises Interrupted."""
        before = signal.signal(self._signum, self._stop_request.note)
        try:
            yield
        finally:
            signal.signal(self._signum, before)
            self._stop_request = StopRequest()
