"""Drafts by n-grams: looks up what followed the last tokens before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from pipeinfer_cli.scheduler.interfaces import Branch, Candidate, DraftBatch

LONGEST, SHORTEST = 4, 2  # tokens of an n-gram
N_FOLLOWERS_MAX = 16  # different tokens that are remembered of each n-gram

# How much less sure each further token of a repeated passage is, than the one before.
TRUST_PER_TOKEN = 0.95


class NgramIndex:
    """What followed the n-grams of a text that grows, the latest last."""

    def __init__(self) -> None:
        self._followers: dict[tuple[int, ...], dict[int, None]] = {}
        self._text: Sequence[int] = ()
        self._n_indexed = 0

    def update(self, text: Sequence[int], n_text: int) -> None:
        """Knows all n-grams of `text[:n_text]`. What is new is looked at, unless the text is."""
        if text is not self._text or n_text < self._n_indexed:
            self._followers.clear()
            self._text, self._n_indexed = text, 0
        for end in range(max(self._n_indexed, SHORTEST), n_text):
            before = tuple(text[max(0, end - LONGEST) : end])
            for size in range(SHORTEST, len(before) + 1):
                followers = self._followers.setdefault(before[-size:], {})
                followers.pop(text[end], None)
                followers[text[end]] = None
                if len(followers) > N_FOLLOWERS_MAX:
                    del followers[next(iter(followers))]
        self._n_indexed = n_text

    def followers(self, ngram: tuple[int, ...]) -> Iterable[int]:
        """What followed it in the text, the latest first."""
        return reversed(self._followers.get(ngram, {}))

    def expand(self, branch: Branch, n_candidates: int) -> list[Candidate]:
        """What followed the last tokens of text and branch, in either.

        Longer matches come first, of equals the latest. None can know how sure it is: longer ones
        are trusted more, and each has the probability that those before it leave.
        """
        start = max(0, self._n_indexed - LONGEST)
        tail = (*self._text[start : self._n_indexed], *branch)
        n_before = self._n_indexed - start
        candidates: dict[int, float] = {}
        rest = 1.0
        for size in range(min(LONGEST, len(tail)), SHORTEST - 1, -1):
            ngram = tail[-size:]
            ends = range(len(tail) - 1, max(n_before, size) - 1, -1)
            in_branch = (tail[end] for end in ends if tail[end - size : end] == ngram)
            for token in (*in_branch, *self.followers(ngram)):
                if len(candidates) == n_candidates:
                    break
                if token not in candidates:
                    candidates[token] = rest * trust(size)
                    rest -= candidates[token]
        return list(candidates.items())


def trust(size: int) -> float:
    """How probable it is that what followed the last `size` tokens before follows again."""
    return 1 - 0.5 ** (size - 1)


class NgramDrafter:
    """Prompt lookup: what followed the last tokens when they stood in the text before.

    After "Prompt Lookup Decoding" (A. Saxena, 2023). Needs no model; good at repetition.
    """

    def __init__(self) -> None:
        self._index_of_text = NgramIndex()
        self._sizes = range(LONGEST, SHORTEST - 1, -1)
        # Where each n-gram ends; those of discarded texts are found out when they are used.
        self._ends: dict[tuple[int, ...], list[int]] = {}
        self._n_indexed = 0

    def expand(
        self,
        batch: DraftBatch,
        is_wanted: Callable[[], bool],  # noqa: ARG002
    ) -> list[Sequence[Candidate]] | None:
        """See BatchDrafter."""
        self._index_of_text.update(batch.text, batch.n_text)
        return [self._index_of_text.expand(each, batch.n_candidates) for each in batch.branches]

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
        sure = trust(size)
        yield [(text[start], sure * (1 - sure) ** rank) for rank, start in enumerate(starts)]
        start = starts[0]
        while True:  # a continuation may run into itself: a text that repeats
            text.append(text[start])
            start += 1
            sure *= TRUST_PER_TOKEN
            yield [(text[start], sure)]

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
