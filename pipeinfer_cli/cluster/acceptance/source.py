"""What drafts in a simulation: a draft model, an n-gram lookup, both, or the one that is chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from pipeinfer_cli.cluster.acceptance.models import RepeatedAcceptance
from pipeinfer_cli.cluster.acceptance.text import SyntheticDrafter, SyntheticText
from pipeinfer_cli.drafters.fallback import FallbackDrafter
from pipeinfer_cli.scheduler.interfaces import Candidate, DraftBatch, Drafter
from pipeinfer_cli.scheduler.policy import DrafterKind

NGRAM_S = 20e-6  # for a batch


class SimulatedSource:
    """The drafters of a synthetic text, and their times."""

    def __init__(
        self,
        text: SyntheticText,
        model_s: Callable[[int], float],
        *,
        kind: DrafterKind = "model",
        repetition: float = 0.0,
    ) -> None:
        """`model_s`: the model's time for a batch, by its branches.

        `repetition`: the share of the text that is a repetition, which n-grams know.
        """
        repeated = RepeatedAcceptance(share=repetition, seed=text.seed)
        self._model = SyntheticDrafter(text)
        self._ngram = SyntheticDrafter(replace(text, acceptance=repeated))
        self._model_s = model_s
        self._kind = kind
        self._drafters: dict[str, Drafter] = {
            "model": self._model,
            "ngram": self._ngram,
            "both": FallbackDrafter(self._ngram, self._model),
        }

    def note_decided(self, n_tokens: int) -> None:
        """The text has `n_tokens` more."""
        self._model.n_decided += n_tokens
        self._ngram.n_decided += n_tokens

    def _kind_of(self, batch: DraftBatch) -> str:
        return (batch.drafter or "model") if self._kind == "auto" else self._kind

    def expand(
        self, batch: DraftBatch, is_wanted: Callable[[], bool]
    ) -> list[Sequence[Candidate]] | None:
        """See interfaces.Drafter."""
        return self._drafters[self._kind_of(batch)].expand(batch, is_wanted)

    def batch_s(self, batch: DraftBatch) -> float:
        """How long the batch takes."""
        kind = self._kind_of(batch)
        if kind == "model":
            return self._model_s(len(batch.branches))
        found = self._ngram.expand(batch, lambda: True)
        n_unknown = sum(not each for each in found) if kind == "both" else 0
        return NGRAM_S + (self._model_s(n_unknown) if n_unknown else 0.0)
