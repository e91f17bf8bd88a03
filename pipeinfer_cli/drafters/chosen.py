"""Several drafters, of which each batch names the one that it wants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pipeinfer_cli.scheduler.interfaces import Candidate, DraftBatch, Drafter


class ChosenDrafter:
    """Asks the drafter that a batch names; the first one, if it names none."""

    def __init__(self, drafters: Mapping[str, Drafter]) -> None:
        self._by_name = dict(drafters)
        self.drafters = tuple(drafters.values())
        self.names = tuple(drafters)

    def expand(
        self, batch: DraftBatch, is_wanted: Callable[[], bool]
    ) -> list[Sequence[Candidate]] | None:
        """See interfaces.Drafter."""
        return self._by_name.get(batch.drafter, self.drafters[0]).expand(batch, is_wanted)
