"""How good a drafter is: which of its proposals are right, and how sure it is of them.

Everything is a pure function of a seed and the position in the text, so that all strategies meet
the same verdicts: where one drafter misses, all of them do.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol, cast, get_args

from pipeinfer_cli.cluster.acceptance import candidates, recording
from pipeinfer_cli.cluster.acceptance.recording import RecordedToken, Recording
from pipeinfer_cli.drafters.ngram import LONGEST, trust
from pipeinfer_cli.errors import UserError

_MASK = (1 << 64) - 1
_SALT_RANK, _SALT_SURE, _SALT_REPEATS, _SALT_NGRAM = 2, 3, 4, 5  # 1: tokens, see text
N_REPEATED = 32  # tokens of a text's part that repeats what was before, or does not
REPEATED_RATE = 0.95  # how often n-grams are right in such a part
Confidence = Literal["plain", "informed", "real"]
CONFIDENCES: tuple[Confidence, ...] = get_args(Confidence)
UNKNOWN = 1 << 30  # the rank of a token that the drafter did not propose


def draw(seed: int, position: int, salt: int) -> float:
    """A number in [0, 1), the same for the same arguments (the mixer of SplitMix64)."""
    x = (seed * 0x9E3779B97F4A7C15 + position * 0xD1B54A32D192ED03 + salt) & _MASK
    for _ in range(2):
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
        x ^= x >> 31
    return (x >> 11) / (1 << 53)


class AcceptanceModel(Protocol):
    """How good the drafter is."""

    @property
    def rate(self) -> float | None:
        """How often the first proposal is right; None if that depends on its distance."""

    def rank(self, position: int, ahead: int) -> int:
        """Which of the drafter's proposals is right, 0 the first; UNKNOWN: none of them.

        `ahead` 1: next to the text.
        """

    def best_rank(self, position: int) -> int:
        """The same at the distance at which the drafter knows the token best."""

    def chances(self, position: int, ahead: int, n: int) -> list[float]:
        """How probable the drafter holds its best proposals: `n` of them, or all that it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomAcceptance:
    """The first proposal is right with the rate of its distance from the text; see `parse`.

    A rate counts only cases where the tokens before are right. Where the first proposal is wrong,
    one of the next seven is right as often as with real drafters; see candidates.

    How sure the drafter is:

    - plain: equally at all positions. Of several proposals, each has the probability with which it
      is right; a single one is certain, so that no cutoff ends a draft.
    - informed: it knows that some positions are harder. The first proposal's probability p is drawn
      for each, from the distribution on [0, 1] whose density is a power of p and whose mean is the
      rate. All proposals are right with their probabilities.
    - real: as sure as real drafters, whose first proposals are right more often than they state;
      the cases in which they are about equally sure are those of candidates.
    """

    rates: tuple[float, ...]  # of the 1st, 2nd, ... token ahead; the last one holds for the rest
    seed: int = 0
    confidence: Confidence = "plain"

    def __post_init__(self) -> None:
        assert self.rates
        for rate in self.rates:
            if not 0 <= rate <= 1:
                raise UserError(f"acceptance {rate:g}: give a rate from 0 to 1")

    @classmethod
    def parse(cls, text: str, seed: int = 0) -> RandomAcceptance:
        """`0.8`, or one rate for each token ahead of the text: `0.8/0.7/0.6`. Raises UserError.

        `0.8:informed` is of a drafter that knows how sure it may be, `0.8:real` as sure as one is.
        """
        numbers, colon, word = text.partition(":")
        if colon and word not in CONFIDENCES:
            raise UserError(f"acceptance {text!r}: after the colon give informed or real")
        confidence = cast("Confidence", word) if colon else "plain"
        try:
            rates = tuple(float(part) for part in numbers.split("/"))
        except ValueError:
            raise UserError(
                f"acceptance {text!r}: give a rate from 0 to 1, or several like 0.8/0.7/0.6"
            ) from None
        return cls(rates=rates, seed=seed, confidence=confidence)

    @property
    def rate(self) -> float | None:
        """See AcceptanceModel."""
        return self.rates[0] if len(self.rates) == 1 else None

    def __str__(self) -> str:
        """As `parse` takes it."""
        suffix = "" if self.confidence == "plain" else f":{self.confidence}"
        return "/".join(f"{rate:g}" for rate in self.rates) + suffix

    def _odds(self, position: int, ahead: int) -> Odds:
        rate = self.rates[min(ahead, len(self.rates)) - 1]
        return odds(self.confidence, rate, draw(self.seed, position, _SALT_SURE))

    def chances(self, position: int, ahead: int, n: int) -> list[float]:
        """See AcceptanceModel."""
        if n == 1 and self.confidence == "plain":
            return [1.0]
        return list(self._odds(position, ahead).stated[:n])

    def rank(self, position: int, ahead: int) -> int:
        """See AcceptanceModel."""
        number = draw(self.seed, position, _SALT_RANK)
        for rank, chance in enumerate(self._odds(position, ahead).right):
            number -= chance
            if number < 0:
                return rank
        return UNKNOWN

    def best_rank(self, position: int) -> int:
        """See AcceptanceModel."""
        return min(self.rank(position, ahead) for ahead in range(1, len(self.rates) + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatedAcceptance:
    """An n-gram lookup: mostly right where the text repeats what was before, else without ideas."""

    share: float  # of the text's parts, which are repetitions
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise UserError(f"--repetition {self.share:g}: give a share from 0 to 1")

    @property
    def rate(self) -> float | None:
        """See AcceptanceModel."""
        return self.share * REPEATED_RATE

    def _repeats(self, position: int) -> bool:
        return draw(self.seed, position // N_REPEATED, _SALT_REPEATS) < self.share

    def chances(self, position: int, ahead: int, n: int) -> list[float]:  # noqa: ARG002
        """See AcceptanceModel."""
        return [trust(LONGEST)][:n] if self._repeats(position) else []

    def rank(self, position: int, ahead: int) -> int:  # noqa: ARG002
        """See AcceptanceModel."""
        is_right = draw(self.seed, position, _SALT_NGRAM) < REPEATED_RATE
        return 0 if is_right and self._repeats(position) else UNKNOWN

    def best_rank(self, position: int) -> int:
        """See AcceptanceModel."""
        return self.rank(position, 1)


@dataclass(frozen=True, slots=True)
class Odds:
    """Of the proposals for a position, the best first."""

    right: tuple[float, ...]  # how often each of them is
    stated: tuple[float, ...]  # the probabilities that the drafter gives them


@lru_cache(maxsize=4096)
def odds(confidence: Confidence, rate: float, number: float) -> Odds:
    """Of a drafter of this rate at a position that is hard to the degree of a uniform number."""
    if confidence == "real":
        found = candidates.drawn(rate, number)
        return Odds(found.chances, found.stated)
    right, misses = rate, candidates.misses(rate)
    if confidence == "informed" and 0 < rate < 1:
        right = number ** (1 / rate - 1)  # for a uniform number the mean is `rate`
        misses = candidates.misses(rate, right)
    chances = (right, *((1 - right) * share for share in misses))
    return Odds(chances, chances)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedAcceptance:
    """What happened in a real run, token by token; a longer text starts over from the beginning.

    On a wrong branch, too, the candidates are those that were recorded for the position.
    """

    recording: Recording
    n_prompt: int

    @classmethod
    def read(cls, path: Path, n_prompt: int) -> RecordedAcceptance:
        """Of a file, for a text after a prompt of `n_prompt` tokens. UserError."""
        return cls(recording=recording.read(path), n_prompt=n_prompt)

    @property
    def rate(self) -> float | None:
        """See AcceptanceModel."""
        return self.recording.rate

    def _token(self, position: int) -> RecordedToken:
        tokens = self.recording.tokens
        return tokens[(position - self.n_prompt) % len(tokens)]

    def chances(self, position: int, ahead: int, n: int) -> list[float]:  # noqa: ARG002
        """See AcceptanceModel."""
        return list(self._token(position).probabilities[:n])

    def rank(self, position: int, ahead: int) -> int:  # noqa: ARG002
        """See AcceptanceModel."""
        rank = self._token(position).rank
        return UNKNOWN if rank is None else rank

    def best_rank(self, position: int) -> int:
        """See AcceptanceModel."""
        return self.rank(position, 1)
