"""What a drafter's confidence is worth: its probabilities, corrected by how often it was right.

The correction is a factor for each band of probabilities and each rank among the candidates,
learned from the positions that the target has decided. It changes what is drafted and fed, never
the text.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence

from pipeinfer_cli.scheduler.interfaces import Candidate

BANDS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.97)  # bounds between them
N_RANKS = 3  # the best candidate, the second, all others
WEIGHT = 2.0  # of the assumption that the drafter is right about itself: in expected hits
DECAY = 0.99  # how much of what was known each further hit or miss of a band leaves
MOST = 0.999  # nothing is certain


class Confidence:
    """Learned for one pair of target and drafter; outlives its requests."""

    def __init__(self) -> None:
        n_cells = (len(BANDS) + 1) * N_RANKS
        self._expected = [0.0] * n_cells  # hits, by the drafter's own probabilities
        self._hits = [0.0] * n_cells
        self._factors = [1.0] * n_cells

    def probability(self, rank: int, confidence: float) -> float:
        """How probable a candidate of this rank (0 the best) is right."""
        return min(confidence * self._factors[_cell(rank, confidence)], MOST)

    def probabilities(self, candidates: Sequence[Candidate], least: float = 0.0) -> list[float]:
        """Of the candidates for a position until one has less than `least`; together at most 1."""
        found: list[float] = []
        for rank, (_, confidence) in enumerate(candidates):
            probability = self.probability(rank, confidence)
            if probability < least:
                break
            found.append(probability)
        excess = sum(found)
        return [each / excess for each in found] if excess > 1 else found

    def on_decided(self, candidates: Sequence[Candidate], token: int) -> None:
        """The target has decided what follows where these were the candidates."""
        for rank, (candidate, confidence) in enumerate(candidates):
            cell = _cell(rank, confidence)
            self._expected[cell] = DECAY * self._expected[cell] + confidence
            self._hits[cell] = DECAY * self._hits[cell] + (candidate == token)
            self._factors[cell] = (self._hits[cell] + WEIGHT) / (self._expected[cell] + WEIGHT)


def _cell(rank: int, confidence: float) -> int:
    return bisect(BANDS, confidence) * N_RANKS + (rank if rank < N_RANKS else N_RANKS - 1)
