"""An answer: tokens that become a text, and why it ended."""

from __future__ import annotations

import codecs
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.runtime.stop_strings import StopStrings


@dataclass(slots=True)
class Answer:
    """The text so far.

    `finish_reason`: `stop` (end of generation, or a stop string), `length`, `interrupted`, `error`.
    """

    tokens: list[int] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)  # when each token was decided
    text: str = ""
    finish_reason: str = "error"


class AnswerBuilder:
    """An answer that grows by tokens as they come."""

    def __init__(
        self,
        answer: Answer,
        vocab: Vocab,
        n_max: int,
        *,
        ignore_eos: bool,
        stop: Sequence[str] = (),
        stop_tokens: Collection[int] = (),
    ) -> None:
        self.answer = answer
        self._vocab, self._n_max, self._ignore_eos = vocab, n_max, ignore_eos
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stops = StopStrings(stop)
        self._stop_tokens = frozenset(stop_tokens)

    @property
    def is_over(self) -> bool:
        """Whether no more tokens belong to it."""
        return self.answer.finish_reason != "error"

    def feed(self, token: int) -> str:
        """One more token; the text that has come with it, if any."""
        answer = self.answer
        answer.tokens.append(token)
        answer.times_s.append(time.monotonic())
        is_eog = self._vocab.ends_generation(token) and not self._ignore_eos
        is_end = is_eog or token in self._stop_tokens
        if is_end:
            answer.finish_reason = "stop"
        elif len(answer.tokens) == self._n_max:
            answer.finish_reason = "length"
        piece = b"" if is_end else self._vocab.piece(token)
        text = self._stops.feed(self._decoder.decode(piece, final=self.is_over))
        if self._stops.is_found:
            answer.finish_reason = "stop"
        answer.text += text
        return text

    def finish(self) -> str:
        """The end, also an early one: the text that might have become a stop string."""
        text = self._stops.finish()
        self.answer.text += text
        return text


def ids_of(vocab: Vocab, tokens: Iterable[str | int]) -> frozenset[int]:
    """The ids of tokens that are given by id, or as they are spelled. Raises UserError."""
    return frozenset(_id_of(vocab, token) for token in tokens)


def _id_of(vocab: Vocab, token: str | int) -> int:
    if isinstance(token, int) or (token.isascii() and token.isdigit()):
        if int(token) >= vocab.n_tokens:
            raise UserError(f"--stop-token {token}: ids are from 0 to {vocab.n_tokens - 1}")
        return int(token)
    ids = vocab.tokenize(token, is_whole=False)
    if len(ids) != 1:
        raise UserError(
            f"--stop-token {token!r}: the model spells it with {len(ids)} tokens: give one token, "
            "or its id, or use --stop for a text"
        )
    return ids[0]
