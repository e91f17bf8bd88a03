"""A drafter that asks several others in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeinfer_cli.scheduler.interfaces import Candidate, Drafter


class FallbackDrafter:
    """The first of several drafters that has something to propose."""

    def __init__(self, *drafters: Drafter) -> None:
        self.drafters = drafters

    def propose(
        self, context: Sequence[int], n_candidates: int = 1
    ) -> Iterator[Sequence[Candidate]]:
        """See Drafter."""
        for drafter in self.drafters:
            proposals = drafter.propose(context, n_candidates)
            first = next(proposals, None)
            if first is not None:
                yield first
                yield from proposals
                return
