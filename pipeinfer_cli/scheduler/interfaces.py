"""What the scheduler's users implement: drafters, pipelines, observers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from pipeinfer_cli.scheduler.runs import Mask, Result, Run

Candidate = tuple[int, float]  # a token, and the probability that the drafter gives it

Branch = tuple[int, ...]  # drafted tokens, from the end of a text on; () is the end of the text


class Constraint(Protocol):
    """What may follow a text, as a grammar has it: a value, which the text's tokens alone decide.

    So whoever knows a text or a branch knows its mask: what it forbids is neither drafted nor
    drawn, and the text is that of plain decoding under the same grammar.
    """

    @property
    def is_over(self) -> bool:
        """Whether the text has ended: what follows is not in it."""

    @property
    def mask(self) -> Mask | None:
        """The tokens that may follow; None: the text has ended."""

    def after(self, token: int) -> Constraint:
        """What may follow the text with one more token, which the mask allows."""


@dataclass(frozen=True, slots=True)
class DraftBatch:
    """Nodes of a token tree to expand together: what may follow each of these branches?"""

    epoch: int  # of this request; what is drafted for earlier ones is not wanted any more
    text: Sequence[int]  # it only grows while the request is under way
    n_text: int  # the branches begin after that many of its tokens
    branches: tuple[Branch, ...]
    n_candidates: int  # at most, for each branch
    drafter: str = ""  # the name of the one that is asked, where there are several
    masks: tuple[Mask | None, ...] = ()  # by branch: what may follow it; (): anything follows any

    def part(self, indices: Sequence[int]) -> DraftBatch:
        """Some of its branches."""
        masks = tuple(self.masks[index] for index in indices) if self.masks else ()
        return replace(self, branches=tuple(self.branches[i] for i in indices), masks=masks)


@dataclass(frozen=True, slots=True)
class DraftedBatch:
    """What may follow each branch of a DraftBatch."""

    epoch: int  # of the request
    candidates: tuple[Sequence[Candidate], ...]  # by branch, the best first; empty: unknown
    took_us: int = 0  # the drafter's time for all of them
    drafter: str = ""  # of the batch


class Drafter(Protocol):
    """Anything that proposes tokens, for several branches of a tree at a time."""

    def expand(
        self, batch: DraftBatch, is_wanted: Callable[[], bool]
    ) -> list[Sequence[Candidate]] | None:
        """For each branch what may follow it, the best first; nothing where nothing is known.

        One forward pass for all of them, and no token that is cached is fed again. Texts mostly
        grow, along a branch or beside all of them; they may also lose their last tokens.
        `is_wanted` is asked between parts of a long text: None if it says no.
        """


def candidates_after(drafter: Drafter, text: Sequence[int], n: int) -> Sequence[Candidate]:
    """What the drafter says may follow a text; nothing if it knows nothing."""
    answer = drafter.expand(DraftBatch(0, text, len(text), ((),), n), lambda: True)
    return answer[0] if answer else ()


class Drafts(Protocol):
    """A request's drafter at work: drafters.thread.DraftThread."""

    def request(self, batch: DraftBatch) -> None:
        """Starts on a batch; the one under way ends."""

    def set_epoch(self, epoch: int) -> None:
        """Batches of earlier epochs are not wanted any more."""

    def take(self) -> list[DraftedBatch]:
        """What has been drafted since the last call."""


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

    def on_result(self, result: Result, decided: Sequence[int], n_accepted: int) -> None:
        """A result has come, and has decided these token ids.

        So many of them had been drafted, and were on their way already.
        """
