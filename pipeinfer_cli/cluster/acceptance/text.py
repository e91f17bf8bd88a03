"""A text without a model: the target's tokens, and a drafter's proposals for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pipeinfer_cli.cluster.acceptance.models import AcceptanceModel, draw
from pipeinfer_cli.scheduler.interfaces import Candidate, DraftBatch
from pipeinfer_cli.scheduler.runs import Result, Run, RunStatus

_SALT_TOKEN = 1  # see models


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticText:
    """The text that the target is said to write, and a drafter's proposals for it."""

    acceptance: AcceptanceModel
    seed: int = 0
    n_vocab: int = 32000  # token ids are below

    def token(self, position: int) -> int:
        """The target's token at a position."""
        return int(draw(self.seed, position, _SALT_TOKEN) * self.n_vocab)

    def proposals(self, position: int, ahead: int, n: int = 1) -> list[int]:
        """The drafter's `n` best tokens for a position, all different, the best one first."""
        rank = self.acceptance.rank(position, ahead)
        token = self.token(position)
        wrong = iter(range(token + 1, token + 1 + n))
        return [token if i == rank else next(wrong) % self.n_vocab for i in range(n)]

    def candidates(self, position: int, ahead: int, n: int) -> list[Candidate]:
        """At most `n` proposals, with what the drafter thinks of them."""
        chances = self.acceptance.chances(position, ahead, n)
        return list(zip(self.proposals(position, ahead, len(chances)), chances, strict=True))

    def with_verdicts(self, result: Result, run: Run) -> Result:
        """The result of this run, as if the target had written this text."""
        if result.status is not RunStatus.COMPLETED:
            return result
        rows = tuple(self.token(each.position + 1) for each in run.tokens if each.want)
        return replace(result, rows=rows)


class SyntheticDrafter:
    """A drafter that knows as much of the text as its acceptance model tells.

    It is as sure of them as the model tells.
    """

    def __init__(self, text: SyntheticText) -> None:
        self._text = text
        self.n_decided = 0  # tokens of the text; matters to rates that fall with the distance

    def expand(
        self,
        batch: DraftBatch,
        is_wanted: Callable[[], bool],  # noqa: ARG002
    ) -> list[Sequence[Candidate]]:
        """See interfaces.Drafter."""
        return [
            self._candidates(batch.n_text + len(branch), batch.n_text, batch.n_candidates)
            for branch in batch.branches
        ]

    def _candidates(self, position: int, n_context: int, n: int) -> list[Candidate]:
        ahead = max(position - (self.n_decided or n_context), 0) + 1
        return self._text.candidates(position, ahead, n)
