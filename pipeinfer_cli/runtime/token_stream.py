"""The head's loop: ask the scheduler, submit, wait, and stream the text."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Protocol

from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.errors import Interrupted, RunError
from pipeinfer_cli.runtime.answer import Answer, AnswerBuilder
from pipeinfer_cli.scheduler.auto import AutoSpeculation
from pipeinfer_cli.scheduler.interfaces import Observer, Pipeline
from pipeinfer_cli.scheduler.runs import Result
from pipeinfer_cli.scheduler.scheduler import Scheduler
from pipeinfer_cli.scheduler.speculation import Draft, DraftRequest

POLL_S = 0.1  # how long Python may sleep in C: signals are handled in between


class Drafts(Protocol):
    """What the head needs of thread.DraftThread."""

    def request(self, request: DraftRequest) -> None:
        """Starts a draft."""

    def set_epoch(self, epoch: int) -> None:
        """Ends drafts of earlier epochs."""

    def take(self) -> list[Draft]:
        """What has been drafted since the last call."""


class NoDrafts:
    """For the strategy that drafts nothing."""

    def request(self, request: DraftRequest) -> None:
        """Is never called."""
        raise AssertionError(request)

    def set_epoch(self, epoch: int) -> None:
        """Nothing to end."""

    def take(self) -> list[Draft]:
        """Nothing."""
        return []


class Waiting:
    """Waits for results, and notices when none comes: RunError then."""

    def __init__(self, pipeline: Pipeline, timeout_s: float) -> None:
        self._pipeline = pipeline
        self._timeout_s = timeout_s
        self._heard_s = time.monotonic()  # when a result last came, or none was due

    def result(self, *, is_idle: bool) -> Result | None:
        """The next result, or None after a while, or when a draft has come; idle: none is due."""
        result = self._pipeline.wait(POLL_S)
        now_s = time.monotonic()
        if result is not None or is_idle:
            self._heard_s = now_s
        elif now_s > self._heard_s + self._timeout_s:
            raise RunError(
                f"no result for {self._timeout_s:g} s: a stage hangs or is slower than that "
                "(--timeout)"
            )
        return result


class TokenStream:
    """The head's loop: schedule, submit, wait; iterate over it for the generated token ids.

    They have no end unless `asked` says that the job shall end: the caller stops, and calls
    `finish` before another request uses the pipeline. RunError if a stage fails or no result comes
    for `timeout_s`.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        scheduler: Scheduler,
        *,
        timeout_s: float,
        drafts: Drafts | None = None,
        auto: AutoSpeculation | None = None,
        observer: Observer | None = None,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        self._stop_requested = stop_requested
        self._pipeline = pipeline
        self._scheduler = scheduler
        self._waiting = Waiting(pipeline, timeout_s)
        self._drafts: Drafts = drafts or NoDrafts()
        self._auto = auto
        self._observer = observer
        if auto is not None:
            scheduler.set_speculating(auto.is_speculating)

    def __iter__(self) -> Iterator[int]:
        while not self._stop_requested():
            self._submit()
            if (result := self._wait_for_result()) is not None:
                tokens = self._take(result)
                if self._auto is not None and tokens:
                    self._auto.decide(self._scheduler, len(tokens), time.monotonic())
                yield from tokens
            for draft in self._drafts.take():
                self._scheduler.on_draft(draft)

    def end(self) -> None:
        """The text is long enough: what is in flight counts as superfluous from now on.

        `finish` does the rest, when another request wants the pipeline.
        """
        self._scheduler.finish()

    def finish(self) -> None:
        """Gives up what is in flight, and waits for its results."""
        self._scheduler.finish()
        self._submit()
        while not self._scheduler.is_idle:
            if (result := self._wait_for_result()) is not None:
                self._take(result)

    def _wait_for_result(self) -> Result | None:
        return self._waiting.result(is_idle=self._scheduler.is_idle)

    def _submit(self) -> None:
        for run_first, run_last in self._scheduler.take_cancels():
            if self._observer is not None:
                self._observer.on_cancel(run_first, run_last)
            self._pipeline.cancel(run_first, run_last)
        for run in self._scheduler.take_runs():
            if self._observer is not None:
                self._observer.on_submit(run)
            self._pipeline.submit(run)
        self._drafts.set_epoch(self._scheduler.epoch)
        if (request := self._scheduler.take_draft_request()) is not None:
            self._drafts.request(request)

    def _take(self, result: Result) -> list[int]:
        tokens = self._scheduler.on_result(result)
        if self._observer is not None:
            self._observer.on_result(result, tokens)
        return tokens


def answer_tokens(
    tokens: Iterable[int],
    vocab: Vocab,
    n_max: int,
    *,
    ignore_eos: bool,
    answer: Answer,
    stop: Sequence[str] = (),
    stop_tokens: Collection[int] = (),
) -> Iterator[str]:
    """Takes tokens until the answer ends; yields text as it comes, in whole UTF-8 characters.

    An end-of-generation token counts among the tokens, but has no text; `stop_tokens` are more of
    them, also if those of the model are ignored. The text also ends before
    the first of the strings `stop`; the tokens then end with the one that completes it. Tokens that
    end before the answer does have been interrupted. An error comes after the text before it.
    """
    builder = AnswerBuilder(
        answer, vocab, n_max, ignore_eos=ignore_eos, stop=stop, stop_tokens=stop_tokens
    )
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
