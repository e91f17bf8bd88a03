"""Stop strings: end a text, also where one comes in several pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

# Characters of the text, and between them control tokens, which have no text, as they are spelled.
Elements: TypeAlias = "Sequence[tuple[str, bool]]"  # and whether it is text


class StopStrings:
    """Ends a text before the first stop string that is complete in it.

    A stop string may spell control tokens, each as a whole: it ends the text also if it is complete
    in the text with them spelled out. If several become complete with the same character, the text
    ends before the longest of them. What may be the beginning of one is held back until that is
    known. The pieces that come make no difference: the text that `feed` and `finish` return,
    joined, is that of the whole in one piece.
    """

    def __init__(self, strings: Sequence[str] = ()) -> None:
        assert all(strings), "a stop string must not be empty"
        self._strings = tuple(strings)
        self._n_longest = max(map(len, strings), default=0)
        self._held: Elements = ()
        self.found = ""  # the one that has ended the text; what comes later is dropped

    @property
    def is_found(self) -> bool:
        """Whether the text has ended."""
        return bool(self.found)

    def __bool__(self) -> bool:
        return bool(self._strings)

    def feed(self, text: str, spelling: str = "") -> str:
        """What may leave, now that this text has come, and after it a control token."""
        if self.is_found or not self._strings:
            return "" if self.is_found else text
        control = [(spelling, False)] if spelling else []
        held = [*self._held, *((each, True) for each in text), *control]
        everything = list(range(len(held)))
        shown = [index for index in everything if held[index][1]]
        views = [everything] if shown == everything else [everything, shown]
        ends = [end for view in views if (end := self._first(held, view))]
        if ends:
            _, start, self.found = min(ends)
            self._held = ()
            return _text(held[:start])
        n_ready = min(self._n_ready(held, view) for view in views)
        self._held = held[n_ready:]
        return _text(held[:n_ready])

    def finish(self) -> str:
        """What was held back: no more text comes."""
        held, self._held = self._held, ()
        return _text(held)

    def _first(self, held: Elements, view: Sequence[int]) -> tuple[int, int, str] | None:
        """Where the first stop string that is complete here ends and begins, and which it is."""
        for n, index in enumerate(view, start=1):
            starts = [(_start(held, view[:n], each), each) for each in self._strings]
            if found := [(start, each) for start, each in starts if start is not None]:
                return index, *min(found)
        return None

    def _n_ready(self, held: Elements, view: Sequence[int]) -> int:
        """Elements before the longest end of these that a stop string begins with."""
        for n in range(min(len(view), self._n_longest - 1), 0, -1):
            end = "".join(held[index][0] for index in view[-n:])
            if any(each.startswith(end) for each in self._strings):
                return view[-n]
        return len(held)


def _start(held: Elements, view: Sequence[int], string: str) -> int | None:
    """Where the string begins that ends with the last of these elements; None if it does not."""
    for index in reversed(view):
        element, _ = held[index]
        if not string.endswith(element):
            return None
        string = string.removesuffix(element)
        if not string:
            return index
    return None


def _text(elements: Elements) -> str:
    return "".join(each for each, is_text in elements if is_text)
