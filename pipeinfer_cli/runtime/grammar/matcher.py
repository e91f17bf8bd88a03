"""What a grammar allows after a text: states that are values, found by one matcher of llguidance.

A state is known by the tokens that lead to it. The matcher goes from one to another: back to where
their texts part, and on from there. So branches of a token tree cost what is new in them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from textwrap import shorten
from typing import Any

from pipeinfer_cli.scheduler.runs import MASK_WORD_BYTES, Mask

MAX_ERROR_CHARS = 200
NO_TOKEN = "the model has no token that the grammar allows there"
WORD_BITS = 8 * MASK_WORD_BYTES


class GrammarState:
    """What may follow a text. See scheduler.interfaces.Constraint."""

    __slots__ = ("_mask", "error", "grammar", "is_over", "n_tokens", "parent", "token")

    def __init__(self, grammar: Grammar, parent: GrammarState | None, token: int) -> None:
        self.grammar = grammar
        self.parent = parent  # None: nothing has been said yet
        self.token = token  # the last one
        self.n_tokens: int = 0 if parent is None else parent.n_tokens + 1
        self.is_over: bool = parent is not None and (parent.is_over or token in grammar.ends)
        self.error = ""  # why only an end may follow though the grammar is not through
        self._mask: Mask | None = None

    @property
    def mask(self) -> Mask | None:
        """The tokens that may follow; None: the text has ended.

        Where the vocabulary has no token that the grammar would allow, the text can only end.
        """
        if self._mask is None and not self.is_over:
            self._mask, self.error = self.grammar.allowed_after(self)
        return self._mask

    def after(self, token: int) -> GrammarState:
        """The state after one more token."""
        return GrammarState(self.grammar, self, token)

    def error_after(self, tokens: Sequence[int]) -> str:
        """Why a text with these tokens ends where the grammar does not; empty if all is well."""
        state, before = self, self
        for token in tokens:
            state, before = state.after(token), state
        if state.is_over and before.mask is not None:
            return before.error
        return ""


class Grammar:
    """A grammar at work for one request. `start` is its state before the first token."""

    def __init__(self, matcher: Any, *, ends: Collection[int], n_vocab: int) -> None:
        """`matcher` is an LLMatcher that has seen nothing, and is not used by others."""
        self.ends = frozenset(ends)
        self._unused = matcher
        self._matcher = matcher.deep_copy()
        self._n_bytes = -(-n_vocab // WORD_BITS) * MASK_WORD_BYTES
        self._masks: dict[bytes, Mask] = {}  # the same ones come again and again
        self.start = GrammarState(self, None, -1)
        self._path = [self.start]  # the states that lead to where the matcher is
        self._only_ends = self._mask_of(sum(1 << token for token in self.ends))

    def allowed_after(self, state: GrammarState) -> tuple[Mask, str]:
        """The mask of a state whose text has not ended; if only an end is left, maybe why."""
        if not (error := self._go_to(state)):
            bits = bytes(self._matcher.compute_bitmask()[: self._n_bytes])
            error = self._error()
            if not error and bits.strip(b"\0"):
                if bits not in self._masks:
                    self._masks[bits] = Mask(bits)
                return self._masks[bits], ""
        return self._only_ends, error or NO_TOKEN

    def _go_to(self, state: GrammarState) -> str:
        """Moves the matcher to the state. Says what is wrong if it cannot get there."""
        ahead: list[GrammarState] = []
        at = state
        while not (at.n_tokens < len(self._path) and self._path[at.n_tokens] is at):
            ahead.append(at)
            assert at.parent is not None
            at = at.parent
        if n_back := len(self._path) - 1 - at.n_tokens:
            self._matcher.rollback(n_back)
            del self._path[at.n_tokens + 1 :]
        for each in reversed(ahead):
            if self._matcher.try_consume_tokens([each.token]) != 1:
                return self._error() or "the grammar does not allow the text"
            self._path.append(each)
        return ""

    def _error(self) -> str:
        """What llguidance has against going on; the matcher begins again then."""
        if not self._matcher.is_error():
            return ""
        error = str(self._matcher.get_error()).replace("<non-verbose/>", "")
        error = NO_TOKEN if "NoExtension" in error else shorten(error, MAX_ERROR_CHARS)
        self._matcher = self._unused.deep_copy()
        self._path = [self.start]
        return error

    def _mask_of(self, bits: int) -> Mask:
        return Mask(bits.to_bytes(self._n_bytes, "little"))
