"""Signals that ask us to end: at once, or noted while text is written and obeyed between tokens."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from pipeinfer_cli.errors import Interrupted
from pipeinfer_cli.launch import local_rank

SIGNALS = local_rank.ENDING_SIGNALS


class StopRequest:
    """Whether a signal has asked the job to end. The first one is noted, a second one raises.

    One that comes again within local_rank.REPEAT_S is the same one: terminals, launchers and batch
    systems send it to several processes, which pass it on.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._since_s = 0.0

    def __call__(self) -> bool:
        """Whether it has."""
        return self.signum is not None

    def note(self, signum: int, _frame: FrameType | None) -> None:
        """The handler."""
        now_s = time.monotonic()
        if self.signum is None:
            self.signum, self._since_s = signum, now_s
        elif now_s > self._since_s + local_rank.REPEAT_S:
            raise Interrupted(signum)

    def check(self, resume: str = "") -> None:
        """Interrupted if a signal has come; `resume` as there."""
        if self.signum is not None:
            raise Interrupted(self.signum, resume=resume)


@contextmanager
def deferred_signals() -> Iterator[StopRequest]:
    """Signals are noted while the block runs: for the head, while it is generating."""
    stop_request = StopRequest()
    with _handled_by(stop_request.note):
        if (place := local_rank.folder()) is not None:
            local_rank.announce_listening(place)
        yield stop_request


def raise_on_signals() -> None:
    """All but SIGINT, for which Python has its own way, raise Interrupted from now on."""
    for signum in set(SIGNALS) - {signal.SIGINT}:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, _raise)


def set_handlers(handler: signal.Handlers) -> None:
    """The same handler for all."""
    for signum in SIGNALS:
        signal.signal(signum, handler)


@contextmanager
def default_signal_handlers() -> Iterator[None]:
    """While the block runs, signals kill, as no handler of ours would be called in native code."""
    with _handled_by(signal.SIG_DFL):
        yield


@contextmanager
def resumable(resume: str) -> Iterator[None]:
    """While the block runs, to be interrupted loses nothing: `resume` as in Interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(signal.SIGINT, resume=resume) from None
    except Interrupted as interrupted:
        raise Interrupted(interrupted.signum, resume=interrupted.resume or resume) from None


@contextmanager
def _handled_by(handler: Any) -> Iterator[None]:
    """Another handler while the block runs; what is ignored (nohup, a shell's `&`) stays so."""
    before: dict[signal.Signals, Any] = {}
    for signum in SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            before[signum] = signal.signal(signum, handler)
    try:
        yield
    finally:
        for signum, old in before.items():
            signal.signal(signum, old)


def _raise(signum: int, _frame: FrameType | None) -> None:
    raise Interrupted(signum)
