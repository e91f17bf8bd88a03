"""What to draft next, and which drafts to feed: the drafting half of the scheduler.

Two ways: `fixed` follows lengths, widths and cutoffs that are given, among them the paper's;
`adaptive` chooses by what runs and drafts are expected to gain and to cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pipeinfer_cli.scheduler.interfaces import DraftBatch, DraftedBatch
from pipeinfer_cli.scheduler.speculation.confidence import Confidence
from pipeinfer_cli.scheduler.token_tree import Node, Verdict


class Speculation(Protocol):
    """Drafts for one request. Adds nodes to its token tree; the scheduler feeds them."""

    epoch: int  # drafts of earlier epochs are not wanted any more

    @property
    def is_waiting(self) -> bool:
        """True if more can be drafted for the text as it is, or is being drafted."""

    @property
    def gain(self) -> float | None:
        """The expected speed of speculation over plain decoding's; None: unknown."""

    @property
    def wake_s(self) -> float:
        """When drafts that wait now may leave in a run of their own; infinite: never, or now."""

    def switch(self, is_on: bool) -> None:
        """Begins or ends speculation. What was fed stays."""

    def change_drafter(self, confidence: Confidence) -> None:
        """Another drafter from now on, which is right as often as this says."""

    def take_batch(self) -> DraftBatch | None:
        """What to draft now; None if the drafter is at work or nothing more is wanted."""

    def on_drafted(self, drafted: DraftedBatch) -> None:
        """The answer to a batch. What is no longer wanted is ignored."""

    def n_with_decided(self, n_live: int, *, may_wait: bool = True) -> int | None:
        """Drafted tokens that go with the decided one, which leaves now; None: it waits."""

    def n_alone(self, n_live: int, now_s: float) -> int:
        """Drafted tokens for a run of their own, now; 0: no run, or it pays to wait."""

    def on_run(self) -> None:
        """A run of this request alone is over, and its costs are known."""

    def on_decided(self, root: Node) -> None:
        """The target has said what follows `root`, which is still the tree's."""

    def on_verdicts(self, verdicts: Sequence[Verdict], now_s: float) -> None:
        """The text has grown by these, the last of them now."""
