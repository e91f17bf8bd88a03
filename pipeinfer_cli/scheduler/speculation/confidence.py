"""What a drafter's confidence is worth: its probabilities, corrected by how often it was right.

The correction is a factor for each band of probabilities and each rank among the candidates,
learned from the positions that the target has decided. Until a band has shown enough, the others
speak for it: a drafter that misses less often than usual does so in all of them. It changes what is
drafted and fed, never the text.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from itertools import pairwise

from pipeinfer_cli.scheduler.interfaces import Candidate

BANDS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.97)  # bounds between them
# How much more often a best candidate is right than the drafter says, by band: before anything is
# learned, the middle of thirteen drafts of one target (make bench-acceptance). Greedy texts leave
# nothing to chance that the drafter has to allow for. Other candidates are as good as they say.
PRIOR = (3.0, 3.0, 3.0, 2.3, 1.9, 1.6, 1.45, 1.28, 1.1, 1.03, 1.0)
MOST = 0.999  # nothing is certain
N_RANKS = 3  # the best candidate, the second, all others
WEIGHT = 2.0  # of that: in expected hits
# What best candidates of a band say of themselves on the average, as far as it matters here.
MIDDLES = tuple(sum(each) / 2 for each in pairwise((0.0, *BANDS, 1.0)))
# And how often they are right.
USUAL = tuple(min(prior * middle, MOST) for prior, middle in zip(PRIOR, MIDDLES, strict=True))
MISS_WEIGHT = 1.0  # misses that a drafter is assumed to have as often as others
DECAY = 0.99  # how much of what was known each further hit or miss of a band leaves
MOST_COUNTED = 1 / (1 - DECAY) + 1  # more hits are never counted


N_CELLS = (len(BANDS) + 1) * N_RANKS
Cells = tuple[float, ...]  # by band and rank


class Confidence:
    """Learned for one pair of target and drafter; outlives its requests."""

    def __init__(self, expected: Cells = (), hits: Cells = ()) -> None:
        """What is known already: `counts` of another one. ValueError if it cannot be that."""
        self._expected = list(expected or (0.0,) * N_CELLS)  # hits, as the drafter sees it
        self._hits = list(hits or (0.0,) * N_CELLS)
        self.n_decided = 0  # positions that were learned from, since then
        for counts in (self._expected, self._hits):
            if len(counts) != N_CELLS or not all(0 <= each <= MOST_COUNTED for each in counts):
                raise ValueError(f"not {N_CELLS} counts from 0 to {MOST_COUNTED:g}")
        self._factors: list[float] = []  # by cell; none: to be made from the counts

    @property
    def counts(self) -> tuple[Cells, Cells]:
        """What is known: hits that were expected, and hits."""
        return tuple(self._expected), tuple(self._hits)

    def probability(self, rank: int, confidence: float) -> float:
        """How probable a candidate of this rank (0 the best) is right."""
        if not self._factors:  # once per draft, not for each of its positions that are decided
            self._factors = self._learn()
        return min(confidence * self._factors[_cell(rank, confidence)], MOST)

    def _learn(self) -> list[float]:
        """All factors: until a cell has shown enough, they follow from how often any missed."""
        misses = self._miss_ratio()
        others = min(misses, 1.0)  # they are right where the best one is not
        assumed: list[float] = []
        for middle, usual in zip(MIDDLES, USUAL, strict=True):
            assumed += (usual / (usual + (1 - usual) * misses) / middle, others, others)
        return [
            (hits + WEIGHT * each) / (expected + WEIGHT)
            for hits, expected, each in zip(self._hits, self._expected, assumed, strict=True)
        ]

    def _miss_ratio(self) -> float:
        """Misses of best candidates over those that are usual where they are that sure."""
        seen = expected = MISS_WEIGHT
        for band, (middle, usual) in enumerate(zip(MIDDLES, USUAL, strict=True)):
            n_best = self._expected[band * N_RANKS] / middle
            expected += n_best * (1 - usual)
            seen += max(n_best - self._hits[band * N_RANKS], 0.0)
        return seen / expected

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
        self.n_decided += 1
        for rank, (candidate, confidence) in enumerate(candidates):
            cell = _cell(rank, confidence)
            self._expected[cell] = DECAY * self._expected[cell] + confidence
            self._hits[cell] = DECAY * self._hits[cell] + (candidate == token)
        self._factors = []


def _cell(rank: int, confidence: float) -> int:
    return bisect(BANDS, confidence) * N_RANKS + (rank if rank < N_RANKS else N_RANKS - 1)
