"""A drafter that asks several others in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from pipeinfer_cli.scheduler.interfaces import AnyDrafter, Candidate, DraftBatch


class FallbackDrafter:
    """The first of several drafters that has something to propose."""

    def __init__(self, *drafters: AnyDrafter) -> None:
        self.drafters = drafters

    def expand(
        self, batch: DraftBatch, is_wanted: Callable[[], bool]
    ) -> list[Sequence[Candidate]] | None:
        """See BatchDrafter. The later ones see the branches that those before know nothing of."""
        found: list[Sequence[Candidate]] = [()] * len(batch.branches)
        for drafter in self.drafters:
            todo = [index for index, candidates in enumerate(found) if not candidates]
            if not todo:
                break
            branches = tuple(batch.branches[index] for index in todo)
            answers = drafter.expand(replace(batch, branches=branches), is_wanted)
            if answers is None:
                return None
            for index, candidates in zip(todo, answers, strict=True):
                found[index] = candidates
        return found

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
