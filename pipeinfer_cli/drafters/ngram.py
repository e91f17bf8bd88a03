"""Drafts by n-grams: looks up what followed the last tokens before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from pipeinfer_cli.scheduler.interfaces import Branch, Candidate, DraftBatch

LONGEST, SHORTEST = 4, 2  # tokens of an n-gram
N_FOLLOWERS_MAX = 16  # different tokens that are remembered of each n-gram


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

    def expand(
        self,
        batch: DraftBatch,
        is_wanted: Callable[[], bool],  # noqa: ARG002
    ) -> list[Sequence[Candidate]] | None:
        """See interfaces.Drafter."""
        self._index_of_text.update(batch.text, batch.n_text)
        return [self._index_of_text.expand(each, batch.n_candidates) for each in batch.branches]
