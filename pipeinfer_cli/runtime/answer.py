"""An answer: tokens that become a text, and why it ended."""

from __future__ import annotations

import codecs
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from reprlib import repr as short
from typing import Protocol

from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.errors import Interrupted, UserError
from pipeinfer_cli.runtime.text.stop_strings import StopStrings

MAX_ID_DIGITS = 10  # of a token's id


@dataclass(slots=True)
class Answer:
    """The text so far.

    `finish_reason`: `stop` (end of generation, or a stop string), `length`, `interrupted`, `error`.
    """

    tokens: list[int] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)  # when each token was decided
    text: str = ""
    finish_reason: str = "error"


class EndOptions(Protocol):
    """What GenerateConfig and a batch's Item say of the end of a text."""

    @property
    def ignore_eos(self) -> bool:
        """Whether the model's own end-of-generation tokens end nothing."""

    @property
    def stop(self) -> Sequence[str]:
        """Strings that end the text."""

    @property
    def stop_tokens(self) -> Iterable[str | int]:
        """Ids or spellings of further end-of-generation tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """What ends a text besides its length.

    An end-of-generation token counts among the tokens, but has no text; `stop_tokens` are more of
    them, also if those of the model are ignored. The text also ends before the first of the strings
    `stop`; the tokens then end with the one that completes it.
    """

    ignore_eos: bool = False
    stop: Sequence[str] = ()
    stop_tokens: Collection[int] = ()
    spelled: Collection[int] = ()  # control tokens that the text has as they are spelled

    @classmethod
    def of(cls, options: EndOptions, vocab: Vocab) -> Ends:
        """As the options say. UserError if a stop token is none of the vocabulary's."""
        return cls(
            ignore_eos=options.ignore_eos,
            stop=options.stop,
            stop_tokens=ids_of(vocab, options.stop_tokens),
        )

    def without_eos(self) -> Ends:
        """The same, but the model's own end-of-generation tokens end nothing."""
        return replace(self, ignore_eos=True)


class AnswerBuilder:
    """An answer that grows by tokens as they come, until one of its ends, or `n_max` tokens."""

    def __init__(self, answer: Answer, vocab: Vocab, n_max: int, ends: Ends) -> None:
        self.answer = answer
        self._vocab, self._n_max, self._ends = vocab, n_max, ends
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stops = StopStrings(ends.stop)

    @property
    def is_over(self) -> bool:
        """Whether no more tokens belong to it."""
        return self.answer.finish_reason != "error"

    @property
    def found_stop(self) -> str:
        """The stop string that has ended it; empty if it has ended otherwise, or not yet."""
        return self._stops.found

    def feed(self, token: int) -> str:
        """One more token; the text that has come with it, if any."""
        answer = self.answer
        answer.tokens.append(token)
        answer.times_s.append(time.monotonic())
        is_eog = self._vocab.ends_generation(token) and not self._ends.ignore_eos
        is_end = is_eog or token in self._ends.stop_tokens
        if is_end:
            answer.finish_reason = "stop"
        elif len(answer.tokens) == self._n_max:
            answer.finish_reason = "length"
        is_spelled = token in self._ends.spelled
        piece = b"" if is_end else self._vocab.piece(token, is_special=is_spelled)
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


def ids_of(vocab: Vocab, tokens: Iterable[str | int]) -> frozenset[int]:
    """The ids of tokens that are given by id, or as they are spelled. Raises UserError."""
    return frozenset(_id_of(vocab, token) for token in tokens)


def _id_of(vocab: Vocab, token: str | int) -> int:
    if isinstance(token, int) or (token.isascii() and token.isdigit()):
        is_long = isinstance(token, str) and len(token) > MAX_ID_DIGITS
        if is_long or int(token) >= vocab.n_tokens:
            shown = short(token) if is_long else token
            raise UserError(f"--stop-token {shown}: ids are from 0 to {vocab.n_tokens - 1}")
        return int(token)
    ids = vocab.tokenize(token, is_whole=False)
    if len(ids) != 1:
        raise UserError(
            f"--stop-token {token!r}: the model spells it with {len(ids)} tokens: give one token, "
            "or its id, or use --stop for a text"
        )
    return ids[0]
