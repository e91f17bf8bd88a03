"""A text without a model: the target's tokens, and whether the drafter knows them.

Everything is a pure function of a seed and the position in the text, so that all strategies meet
the same verdicts: where one drafter misses, all of them do.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from pipeinfer_cli.errors import UserError
from pipeinfer_cli.scheduler.interfaces import Candidate, DraftBatch
from pipeinfer_cli.scheduler.runs import Result, Run, RunStatus

_MASK = (1 << 64) - 1
_SALT_TOKEN, _SALT_RANK, _SALT_SURE = 1, 2, 3
INFORMED = ":informed"


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
        """Which of the drafter's proposals is right, 0 the first. `ahead` 1: next to the text."""

    def best_rank(self, position: int) -> int:
        """The same at the distance at which the drafter knows the token best."""

    def chances(self, position: int, ahead: int, n: int) -> list[float]:
        """How probable the drafter holds its `n` best proposals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomAcceptance:
    """The first proposal is right with the rate of its distance from the text; see `parse`.

    A rate counts only cases where the tokens before are right. Of the first proposals that are
    wrong, `second_rate` have the right token next, and so on.

    A drafter that is not `is_informed` is equally sure at all positions: of several proposals, the
    first has the rate for a probability; a single one is certain, so that no cutoff ends a draft.
    One that is knows that some positions are harder: the first proposal's probability p is drawn
    for each, from the distribution on [0, 1] whose density is a power of p and whose mean is the
    rate, and the proposal is right with probability p.
    """

    rates: tuple[float, ...]  # of the 1st, 2nd, ... token ahead; the last one holds for the rest
    seed: int = 0
    second_rate: float = 0.4
    is_informed: bool = False

    def __post_init__(self) -> None:
        assert self.rates
        for rate in self.rates:
            if not 0 <= rate <= 1:
                raise UserError(f"acceptance {rate:g}: give a rate from 0 to 1")

    @classmethod
    def parse(cls, text: str, seed: int = 0) -> RandomAcceptance:
        """`0.8`, or one rate for each token ahead of the text: `0.8/0.7/0.6`. Raises UserError.

        `0.8:informed` is of a drafter that knows how sure it may be.
        """
        numbers = text.removesuffix(INFORMED)
        try:
            rates = tuple(float(part) for part in numbers.split("/"))
        except ValueError:
            raise UserError(
                f"acceptance {text!r}: give a rate from 0 to 1, or several like 0.8/0.7/0.6"
            ) from None
        return cls(rates=rates, seed=seed, is_informed=numbers != text)

    @property
    def rate(self) -> float | None:
        """See AcceptanceModel."""
        return self.rates[0] if len(self.rates) == 1 else None

    def __str__(self) -> str:
        """As `parse` takes it."""
        return "/".join(f"{rate:g}" for rate in self.rates) + INFORMED * self.is_informed

    def _chance(self, position: int, ahead: int) -> float:
        """How often the first proposal is right, as far as the drafter knows."""
        rate = self.rates[min(ahead, len(self.rates)) - 1]
        if not self.is_informed or rate in (0, 1):
            return rate
        # p = u^(1/rate - 1) for a uniform u has the mean `rate`
        return float(draw(self.seed, position, _SALT_SURE) ** (1 / rate - 1))

    def chances(self, position: int, ahead: int, n: int) -> list[float]:
        """See AcceptanceModel."""
        first = self._chance(position, ahead)
        share = self.second_rate
        others = [(1 - first) * share * (1 - share) ** i for i in range(n - 1)]
        return [first if n > 1 or self.is_informed else 1.0, *others]

    def rank(self, position: int, ahead: int) -> int:
        """See AcceptanceModel."""
        number = draw(self.seed, position, _SALT_RANK)
        missed = 1 - self._chance(position, ahead)
        rank = 0
        while number >= 1 - missed and missed > 1e-6:
            missed *= 1 - self.second_rate
            rank += 1
        return rank

    def best_rank(self, position: int) -> int:
        """See AcceptanceModel."""
        return min(self.rank(position, ahead) for ahead in range(1, len(self.rates) + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedAcceptance:
    """What happened in a real run: for each generated token whether the drafter knew it.

    The file is a JSON list of booleans, one per generated token in order; a longer text starts
    over from the beginning.
    """

    verdicts: tuple[bool, ...]
    n_prompt: int

    @classmethod
    def read(cls, path: Path, n_prompt: int) -> RecordedAcceptance:
        """The file's verdicts, for a text after a prompt of `n_prompt` tokens. UserError."""
        try:
            verdicts = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(
                f"cannot read the acceptance trace {str(path)!r}: {error.strerror}: "
                "give a rate or a file"
            ) from None
        except ValueError as error:
            raise UserError(f"the acceptance trace {str(path)!r} is not JSON: {error}") from None
        except RecursionError:
            raise UserError(f"the acceptance trace {str(path)!r} is nested too deeply") from None
        is_list = isinstance(verdicts, list) and bool(verdicts)
        if not is_list or not all(isinstance(verdict, bool) for verdict in verdicts):
            raise UserError(
                f"the acceptance trace {str(path)!r} is not a list of booleans: "
                "write true for each generated token that the drafter knew, else false"
            )
        return cls(verdicts=tuple(verdicts), n_prompt=n_prompt)

    @property
    def rate(self) -> float | None:
        """See AcceptanceModel."""
        return sum(self.verdicts) / len(self.verdicts)

    def chances(self, position: int, ahead: int, n: int) -> list[float]:  # noqa: ARG002
        """See AcceptanceModel."""
        return [1.0] + [0.0] * (n - 1)

    def rank(self, position: int, ahead: int) -> int:  # noqa: ARG002
        """See AcceptanceModel. Nothing is known of a second proposal."""
        return 0 if self.verdicts[(position - self.n_prompt) % len(self.verdicts)] else _MASK

    def best_rank(self, position: int) -> int:
        """See AcceptanceModel."""
        return self.rank(position, 1)


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

    def propose(
        self, context: Sequence[int], n_candidates: int = 1
    ) -> Iterator[Sequence[Candidate]]:
        """See interfaces.Drafter."""
        for position in itertools.count(len(context)):
            yield self._candidates(position, len(context), n_candidates)

    def expand(
        self,
        batch: DraftBatch,
        is_wanted: Callable[[], bool],  # noqa: ARG002
    ) -> list[Sequence[Candidate]] | None:
        """See interfaces.BatchDrafter."""
        return [
            self._candidates(batch.n_text + len(branch), batch.n_text, batch.n_candidates)
            for branch in batch.branches
        ]

    def _candidates(self, position: int, n_text: int, n: int) -> list[Candidate]:
        """For a position, after a text of `n_text` tokens, if nobody has said how long it is."""
        ahead = max(position - (self.n_decided or n_text), 0) + 1
        tokens = self._text.proposals(position, ahead, n)
        chances = self._text.acceptance.chances(position, ahead, n)
        return list(zip(tokens, chances, strict=True))
