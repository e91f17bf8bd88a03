"""What real drafters' candidates are worth: a table by acceptance, from recordings of pairs.

`make bench-acceptance` writes candidates.json; docs/simulation.md says what of.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from pipeinfer_cli.cluster.acceptance.recording import MAX_CANDIDATES

TABLE = Path(__file__).with_name("candidates.json")

Shares = tuple[float, ...]  # MAX_CANDIDATES - 1: of the misses, which candidate is right


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Positions at which drafters of a level were about equally sure."""

    weight: float  # of the level's positions
    stated: tuple[float, ...]  # the candidates' probabilities as drafters stated them
    right: float  # how often the first candidate was right
    misses: Shares

    @property
    def chances(self) -> tuple[float, ...]:
        """How often each candidate was right."""
        return (self.right, *((1 - self.right) * share for share in self.misses))


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Drafters of about the same acceptance."""

    rate: float
    misses: Shares  # at all positions
    bins: tuple[Bin, ...]  # the surer a drafter the later, and the more often right

    def misses_at(self, right: float) -> Shares:
        """At positions where the first candidate is right so often."""
        later = next((i for i, each in enumerate(self.bins) if each.right >= right), -1)
        if later <= 0:
            return self.bins[later].misses
        low, high = self.bins[later - 1 : later + 1]
        return _mixed([(high.right - right, low.misses), (right - low.right, high.misses)])


def _mixed(parts: Sequence[tuple[float, Shares]]) -> Shares:
    total = sum(weight for weight, _ in parts)
    columns = zip(*(shares for _, shares in parts), strict=True)
    weights = [weight / total for weight, _ in parts]
    return tuple(
        sum(w * share for w, share in zip(weights, column, strict=True)) for column in columns
    )


@cache
def levels() -> tuple[Level, ...]:
    """All of the table, and what is beyond: drafters that are never right, and always."""
    measured = [
        Level(
            rate=level["rate"],
            misses=tuple(level["misses"]),
            bins=tuple(
                Bin(
                    weight=each["weight"],
                    stated=tuple(each["stated"]),
                    right=each["right"],
                    misses=tuple(each["misses"]),
                )
                for each in level["bins"]
            ),
        )
        for level in json.loads(TABLE.read_text(encoding="utf-8"))
    ]
    nothing = (0.0,) * (MAX_CANDIDATES - 1)
    never = tuple(
        Bin(weight=each.weight, stated=each.stated, right=0.0, misses=nothing)
        for each in measured[0].bins
    )
    always = Bin(weight=1.0, stated=(1.0, *nothing), right=1.0, misses=nothing)
    return (
        Level(rate=0.0, misses=nothing, bins=never),
        *measured,
        Level(rate=1.0, misses=nothing, bins=(always,)),
    )


def _around(rate: float) -> list[tuple[float, Level]]:
    """The levels that a drafter of this rate is between, with the share of each in it."""
    later = next(i for i, level in enumerate(levels()) if i and level.rate >= rate)
    low, high = levels()[later - 1 : later + 1]
    share = (rate - low.rate) / (high.rate - low.rate)
    return [(1 - share, low), (share, high)]


@lru_cache(maxsize=4096)
def misses(rate: float, right: float | None = None) -> Shares:
    """Which candidate is right where the first is not, for drafters of a rate.

    At all positions, or at those where the first one is right with another probability.
    """
    parts = [
        (share * (1 - level.rate), level.misses if right is None else level.misses_at(right))
        for share, level in _around(rate)
    ]
    if not any(weight for weight, _ in parts):
        return levels()[-1].misses  # it is always right
    return _mixed(parts)


@lru_cache(maxsize=256)
def _bins(rate: float) -> tuple[Bin, ...]:
    """All that a drafter of this rate has, the least sure first; the weights sum up to 1."""
    found = [
        Bin(weight=share * each.weight, stated=each.stated, right=each.right, misses=each.misses)
        for share, level in _around(rate)
        for each in level.bins
    ]
    return tuple(sorted(found, key=lambda each: each.stated[0]))


def drawn(rate: float, number: float) -> Bin:
    """One of the bins of such drafters, by a uniform number in [0, 1)."""
    found = _bins(rate)
    for each in found:
        number -= each.weight
        if number < 0:
            return each
    return found[-1]
