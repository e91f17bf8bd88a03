"""What the scheduler's users implement: drafters, pipelines, observers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from pipeinfer_cli.scheduler.runs import Result, Run

Candidate = tuple[int, float]  # a token, and the probability that the drafter gives it


class Drafter(Protocol):
    """Anything that proposes tokens."""

    def propose(
        self, context: Sequence[int], n_candidates: int = 1
    ) -> Iterator[Sequence[Candidate]]:
        """What may follow `context`, position by position: one to `n_candidates`, the best first.

        The draft continues after the best one. The caller stops when it has enough. Contexts mostly
        grow, or lose their last tokens. Before the first position may come empty ones, from a
        drafter that is still reading the context: so that the caller can stop there, too.
        """


class RunSink(Protocol):
    """Where runs and cancels go."""

    def submit(self, run: Run) -> None:
        """Sends a run on its way."""

    def cancel(self, run_first: int, run_last: int) -> None:
        """Gives up the runs `[run_first, run_last]`."""


class Pipeline(RunSink, Protocol):
    """What the head needs of engine.Engine."""

    def wait(self, timeout_s: float) -> Result | None:
        """The next result, in the order of submission; None when the time is over, or nudged."""


class Observer(Protocol):
    """Is told what happens, in this order, on the head's thread: for pictures."""

    def on_submit(self, run: Run) -> None:
        """The run is about to be submitted."""

    def on_cancel(self, run_first: int, run_last: int) -> None:
        """The runs `[run_first, run_last]` are about to be given up."""

    def on_result(self, result: Result, decided: Sequence[int]) -> None:
        """A result has come, and has decided these token ids."""
