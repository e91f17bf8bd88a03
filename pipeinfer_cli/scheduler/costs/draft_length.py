"""The best length of a synchronous draft: a closed form over costs and probabilities.

A round drafts up to n tokens, one after the other, and verifies them in one run together with the
decided token. Drafter and stages never work at the same time, so that their times add up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class RoundCosts(Protocol):
    """What a round is made of, in seconds."""

    @property
    def draft_s(self) -> float:
        """The drafter's time for one token."""

    def compute_s(self, n_tokens: int) -> float:
        """A run of n tokens in all stages, one after the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftOdds:
    """How a draft continues, and how much of it is right: probabilities."""

    acceptance: float  # a drafted token is right, if those before it are
    begins: float = 1.0  # the drafter has a first token that it is sure enough of
    continues: float = 1.0  # and a further one after each


class DraftLength(NamedTuple):
    """A longest draft, and how fast rounds with it are."""

    n_max: int
    tokens_per_s: float


def draft_lengths(costs: RoundCosts, odds: DraftOdds, largest: int) -> Iterator[DraftLength]:
    """The speed of rounds whose drafts have at most 0, 1, ..., `largest` tokens.

    With r(i) for the probability that a draft has an i-th token, and a for the acceptance, a round
    decides 1 + sum r(i) a^i tokens in 1 + sum r(i - 1) drafted ones' time and one run, of
    T(1) + sum r(i) (T(i + 1) - T(i)).
    """
    n_decided, run_s, draft_s = 1.0, costs.compute_s(1), 0.0
    yield DraftLength(0, 1 / run_s)
    tried = reached = 1.0  # tried: the drafter computes an i-th token; reached: it is kept
    right = 1.0
    smaller_s = run_s
    for i in range(1, largest + 1):
        draft_s += tried * costs.draft_s
        reached = tried * (odds.begins if i == 1 else odds.continues)
        right *= odds.acceptance
        larger_s = costs.compute_s(i + 1)
        run_s += reached * (larger_s - smaller_s)
        n_decided += reached * right
        yield DraftLength(i, n_decided / (draft_s + run_s))
        tried, smaller_s = reached, larger_s


def best_draft_length(costs: RoundCosts, odds: DraftOdds, largest: int) -> DraftLength:
    """The fastest with at least one drafted token: whether to draft at all, others decide."""
    _, *lengths = draft_lengths(costs, odds, largest)
    return max(lengths, key=lambda each: each.tokens_per_s)
