"""An answer: tokens that become a text, and why it ended."""

from __future__ import annotations

import codecs
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.errors import Interrupted
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
    """An answer that grows by tokens as they come.

    An end-of-generation token counts among the tokens, but has no text. The text also ends before
    the first of the strings `stop`; the tokens then end with the one that completes it.
    """

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


def texts(tokens: Iterable[int], builder: AnswerBuilder) -> Iterator[str]:
    """Takes tokens until the answer is over; yields its text as it comes, in whole characters.

    Tokens that end before the answer does have been interrupted. An error comes after the text
    before it.
    """
    answer = builder.answer
    try:
        for token in tokens:
            if text := builder.feed(token):
                yield text
            if builder.is_over:
                break
        else:
            answer.finish_reason = "interrupted"
    except GeneratorExit:
        raise
    except BaseException as error:
        if isinstance(error, Interrupted | KeyboardInterrupt):
            answer.finish_reason = "interrupted"
        if text := builder.finish():
            yield text
        raise
    if text := builder.finish():
        yield text
