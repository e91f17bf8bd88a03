"""Drafts by n-grams: looks up what followed the last tokens before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeinfer_cli.scheduler.interfaces import Candidate

# How much less sure each further token of a repeated passage is, than the one before.
TRUST_PER_TOKEN = 0.95


class NgramDrafter:
    """Prompt lookup: what followed the last tokens when they stood in the text before.

    After "Prompt Lookup Decoding" (A. Saxena, 2023). Needs no model; good at repetition.
    """

    def __init__(self, *, longest: int = 4, shortest: int = 2) -> None:
        self._sizes = range(longest, shortest - 1, -1)
        # Where each n-gram ends; those of discarded texts are found out when they are used.
        self._ends: dict[tuple[int, ...], list[int]] = {}
        self._n_indexed = 0

    def propose(
        self, context: Sequence[int], n_candidates: int = 1
    ) -> Iterator[Sequence[Candidate]]:
        """See Drafter. It cannot know how sure it is: longer matches are trusted more.

        Only the first position has several candidates: what followed other matches of that size.
        """
        text = list(context)
        self._index(text)
        size, starts = self._find(text, n_candidates)
        if not starts:
            return
        trust = 1 - 0.5 ** (size - 1)
        yield [(text[start], trust * (1 - trust) ** rank) for rank, start in enumerate(starts)]
        start = starts[0]
        while True:  # a continuation may run into itself: a text that repeats
            text.append(text[start])
            start += 1
            trust *= TRUST_PER_TOKEN
            yield [(text[start], trust)]

    def _index(self, text: list[int]) -> None:
        """Knows all n-grams that end before the text does."""
        for end in range(min(self._n_indexed, len(text)), len(text)):
            for size in self._sizes:
                if size <= end:
                    self._ends.setdefault(tuple(text[end - size : end]), []).append(end)
        self._n_indexed = len(text)

    def _find(self, text: list[int], n_candidates: int) -> tuple[int, list[int]]:
        """The size of the longest n-gram at the end that stood before, and where its matches ended.

        The latest match first, and only those that different tokens followed.
        """
        for size in self._sizes:
            ngram = text[-size:]
            ends: dict[int, int] = {}  # by the token that followed
            for end in reversed(self._ends.get(tuple(ngram), [])):
                if end < len(text) and text[end - size : end] == ngram:
                    ends.setdefault(text[end], end)
                if len(ends) == n_candidates:
                    break
            if ends:
                return size, list(ends.values())
        return 0, []
