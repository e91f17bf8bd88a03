"""Checks of option values that several configurations share."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches

from pipeinfer_cli.errors import UserError

MAX_COUNT = 2**30  # the engine counts with 32 bits


def check_count(option: str, value: int | None, most: int = MAX_COUNT, *, least: int = 1) -> None:
    """UserError unless the value is None or from `least` to `most`."""
    if value is not None and not least <= value <= most:
        raise UserError(f"{option} {value}: give a number from {least} to {most}")


def check_lists(lists: Mapping[str, Collection[object]]) -> None:
    """UserError, naming the option, if one of these lists has nothing."""
    for option, values in lists.items():
        if not values:
            raise UserError(f"{option} is empty: give one or more, with commas between them")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A guess to put into a message, or nothing if no known word is close."""
    by_lower = {each.lower(): each for each in known}
    found = get_close_matches(word.lower(), by_lower, n=1)
    return f" (did you mean {by_lower[found[0]]}?)" if found else ""
