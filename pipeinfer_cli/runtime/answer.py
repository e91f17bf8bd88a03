"""An answer: tokens that become a text, and why it ended."""

from __future__ import annotations

import codecs
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeinfer_cli.engine.vocab import Vocab
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
    ) -> None:
        self.answer = answer
        self._vocab, self._n_max, self._ignore_eos = vocab, n_max, ignore_eos
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stops = StopStrings(stop)

    @property
    def is_over(self) -> bool:
        """Whether no more tokens belong to it."""
        return self.answer.finish_reason != "error"

    def feed(self, token: int) -> str:
        """One more token; the text that has come with it, if any."""
        answer = self.answer
        answer.tokens.append(token)
        answer.times_s.append(time.monotonic())
        is_end = self._vocab.ends_generation(token) and not self._ignore_eos
        if is_end:
            answer.finish_reason = "stop"
        elif len(answer.tokens) == self._n_max:
            answer.finish_reason = "length"
        piece = b"" if is_end else self._vocab.piece(token)
        spelling = "" if piece or not self._stops else self._spelling(token)
        text = self._stops.feed(self._decoder.decode(piece, final=self.is_over), spelling)
        if self._stops.is_found:
            answer.finish_reason = "stop"
        answer.text += text
        return text

    def _spelling(self, token: int) -> str:
        """How a control token is spelled, which has no text."""
        return self._vocab.piece(token, is_special=True).decode(errors="replace")

    def finish(self) -> str:
        """The end, also an early one: the text that might have become a stop string."""
        text = self._stops.finish()
        self.answer.text += text
        return text
