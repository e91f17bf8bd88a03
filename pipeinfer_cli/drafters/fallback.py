"""A drafter that asks several others in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeinfer_cli.scheduler.interfaces import Candidate, DraftBatch, Drafter


class FallbackDrafter:
    """The first of several drafters that has something to propose."""

    def __init__(self, *drafters: Drafter) -> None:
        self.drafters = drafters

    def expand(
        self, batch: DraftBatch, is_wanted: Callable[[], bool]
    ) -> list[Sequence[Candidate]] | None:
        """See interfaces.Drafter. Later ones see the branches that those before do not know."""
        found: list[Sequence[Candidate]] = [()] * len(batch.branches)
        for drafter in self.drafters:
            todo = [index for index, candidates in enumerate(found) if not candidates]
            if not todo:
                break
            answers = drafter.expand(batch.part(todo), is_wanted)
            if answers is None:
                return None
            for index, candidates in zip(todo, answers, strict=True):
                found[index] = candidates
        return found
