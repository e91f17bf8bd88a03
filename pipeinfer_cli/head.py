"""The head's loop: ask the scheduler, submit, wait, and stream the text."""

from __future__ import annotations

import codecs
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TextIO

from pipeinfer_cli.config import OutputFormat
from pipeinfer_cli.errors import RunError
from pipeinfer_cli.runs import Result, Run
from pipeinfer_cli.stats import Stats
from pipeinfer_cli.vocab import Vocab

POLL_S = 0.1  # how long Python may sleep in C: signals are handled in between


class Pipeline(Protocol):
    """What the head needs of native.Engine."""

    def submit(self, run: Run) -> None:
        """Sends a run on its way."""

    def wait(self, timeout_s: float) -> Result | None:
        """The next result, in the order of submission; None when the time is over."""


class Scheduler(Protocol):
    """See scheduler.py."""

    def take_runs(self) -> list[Run]:
        """The runs to submit now, in this order."""

    def on_result(self, result: Result) -> list[int]:
        """The token ids that this result has decided."""


def token_stream(pipeline: Pipeline, scheduler: Scheduler, *, timeout_s: float) -> Iterator[int]:
    """Generated token ids, without end: the caller stops. RunError if a stage fails or is silent.

    When it stands still at a token, no run is in flight but those the scheduler wants there.
    """
    while True:
        for run in scheduler.take_runs():
            pipeline.submit(run)
        yield from scheduler.on_result(_wait(pipeline, timeout_s))


def _wait(pipeline: Pipeline, timeout_s: float) -> Result:
    deadline = time.monotonic() + timeout_s
    while (result := pipeline.wait(POLL_S)) is None:
        if time.monotonic() > deadline:
            raise RunError(
                f"no result for {timeout_s:g} s: a stage hangs or is slower than that (--timeout)"
            )
    return result


@dataclass(slots=True)
class Answer:
    """The text so far. `finish_reason`: `stop` (end of generation), `length`, or `error`."""

    tokens: list[int] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)  # when each token was decided
    text: str = ""
    finish_reason: str = "error"


def answer_tokens(
    tokens: Iterator[int], vocab: Vocab, n_max: int, *, ignore_eos: bool, answer: Answer
) -> Iterator[str]:
    """Takes tokens until the answer ends; yields text as it comes, in whole UTF-8 characters.

    An end-of-generation token counts among the tokens, but has no text.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token in tokens:
        answer.tokens.append(token)
        answer.times_s.append(time.monotonic())
        if vocab.ends_generation(token) and not ignore_eos:
            answer.finish_reason = "stop"
        elif len(answer.tokens) == n_max:
            answer.finish_reason = "length"
        is_over = answer.finish_reason != "error"
        piece = b"" if answer.finish_reason == "stop" else vocab.piece(token)
        if text := decoder.decode(piece, final=is_over):
            answer.text += text
            yield text
        if is_over:
            return


class Writer:
    """Puts the answer on stdout: text as it comes, or one JSON object at the end."""

    def __init__(self, output_format: OutputFormat, stdout: TextIO = sys.stdout) -> None:
        self._is_json = output_format == "json"
        self._stdout = stdout
        self._last = ""

    def write(self, text: str) -> None:
        """A piece of the text."""
        if not self._is_json:
            self._put(text)
            self._last = text

    def finish(self, answer: Answer, stats: Stats) -> None:
        """The end, also after an error: whatever was produced is kept."""
        if self._is_json:
            self._put(json.dumps(_as_json(answer, stats), ensure_ascii=False) + "\n")
        elif not self._last.endswith("\n"):
            self._put("\n")

    def _put(self, text: str) -> None:
        self._stdout.buffer.write(text.encode(errors="replace"))
        self._stdout.buffer.flush()


def _as_json(answer: Answer, stats: Stats) -> dict[str, Any]:
    return {
        "text": answer.text,
        "tokens": answer.tokens,
        "n_prompt": stats.n_prompt,
        "finish_reason": answer.finish_reason,
        "stats": stats.as_dict(),
    }
