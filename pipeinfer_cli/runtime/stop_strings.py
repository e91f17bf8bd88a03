"""Stop strings: end a text, also where one comes in several pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Ends a text before the first stop string that is complete in it.

    If several become complete with the same character, the text ends before the longest of them.
    What may be the beginning of one is held back until that is known. The pieces that come make no
    difference: the text that `feed` and `finish` return, joined, is that of the whole in one piece.
    """

    def __init__(self, strings: Sequence[str] = ()) -> None:
        assert all(strings), "a stop string must not be empty"
        self._strings = tuple(strings)
        self._n_longest = max(map(len, strings), default=0)
        self._held = ""
        self.is_found = False  # the text has ended; what comes later is dropped

    def feed(self, text: str) -> str:
        """What may leave, now that this has come."""
        if self.is_found:
            return ""
        text = self._held + text
        # No string was complete before, so that the first place of each is the one that counts.
        places = [(text.find(each), each) for each in self._strings]
        found = [(start + len(each), start) for start, each in places if start >= 0]
        if found:
            self.is_found, self._held = True, ""
            return text[: min(found)[1]]
        n_ready = len(text) - self._n_beginning(text)
        self._held = text[n_ready:]
        return text[:n_ready]

    def finish(self) -> str:
        """What was held back: no more text comes."""
        held, self._held = self._held, ""
        return held

    def _n_beginning(self, text: str) -> int:
        """The length of the longest end of the text that a stop string begins with."""
        lengths = range(min(len(text), self._n_longest - 1), 0, -1)
        return next((n for n in lengths if self._may_follow(text[-n:])), 0)

    def _may_follow(self, beginning: str) -> bool:
        return any(each.startswith(beginning) for each in self._strings)
