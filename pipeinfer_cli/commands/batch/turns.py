"""Puts results that arrive in any order back into the order of the items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar


class Indexed(Protocol):
    """Something that has a place in an order."""

    @property
    def index(self) -> int:
        """Its place."""


Each = TypeVar("Each", bound=Indexed)


def in_order(results: Iterable[Each], first: int) -> Iterator[Each]:
    """The results with the indices first, first + 1, ...: each as soon as it is its turn.

    What is still waiting for one before it when `results` end is left out.
    """
    waiting: dict[int, Each] = {}
    for result in results:
        assert result.index >= first and result.index not in waiting, "one result for each index"
        waiting[result.index] = result
        while first in waiting:
            yield waiting.pop(first)
            first += 1
