"""What the scheduler's users implement: drafters, pipelines, observers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeinfer_cli.scheduler.runs import Result, Run

Candidate = tuple[int, float]  # a token, and the probability that the drafter gives it

Branch = tuple[int, ...]  # drafted tokens, from the end of a text on; () is the end of the text


@dataclass(frozen=True, slots=True)
class DraftBatch:
    """Nodes of a token tree to expand together: what may follow each of these branches?"""

    epoch: int  # of this request; what is drafted for earlier ones is not wanted any more
    text: Sequence[int]  # it only grows while the request is under way
    n_text: int  # the branches begin after that many of its tokens
    branches: tuple[Branch, ...]
    n_candidates: int  # at most, for each branch


@dataclass(frozen=True, slots=True)
class DraftedBatch:
    """What came of a DraftBatch."""

    epoch: int  # of the request
    candidates: tuple[Sequence[Candidate], ...]  # for each of its branches
    took_us: int = 0  # the drafter's time for it


class BatchDrafter(Protocol):
    """Anything that proposes tokens for several branches of a tree at a time."""

    def expand(
        self, batch: DraftBatch, is_wanted: Callable[[], bool]
    ) -> list[Sequence[Candidate]] | None:
        """For each branch what may follow it, the best first; nothing where nothing is known.

        One forward pass for all of them, and no token that is cached is fed again. Texts mostly
        grow, along a branch or beside all of them; they may also lose their last tokens.
        `is_wanted` is asked between parts of a long text: None if it says no.
        """


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


class AnyDrafter(Drafter, BatchDrafter, Protocol):
    """What proposes tokens in either way."""


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
