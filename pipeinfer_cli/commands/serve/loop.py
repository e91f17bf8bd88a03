"""The head's loop of a server: requests join and leave the pipeline while it runs."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from pipeinfer_cli.commands.serve.config import ServeConfig
from pipeinfer_cli.commands.serve.generation import (
    Generation,
    GenerationError,
    GrammarError,
    Outcome,
    RequestQueue,
)
from pipeinfer_cli.commands.serve.metrics import Metrics
from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.runtime.answer import AnswerBuilder
from pipeinfer_cli.runtime.drafters import Drafters
from pipeinfer_cli.runtime.head import ActiveRequest, Head, Request
from pipeinfer_cli.runtime.text.token_streams import TokenStreams
from pipeinfer_cli.scheduler.interfaces import Drafter


@dataclass(slots=True)
class _Begun:
    """A request that is in the pipeline."""

    generation: Generation
    active: ActiveRequest
    builder: AnswerBuilder


class ServeLoop:
    """Takes requests from the queue, and hands on their texts, until it is asked to end."""

    def __init__(
        self,
        config: ServeConfig,
        like: Request,
        *,
        head: Head,
        vocab: Vocab,
        drafters: Drafters,
        queue: RequestQueue,
        metrics: Metrics,
    ) -> None:
        """`like`: what all requests have in common."""
        self._config, self._like = config, like
        self._head, self._vocab, self._drafters = head, vocab, drafters
        self._queue, self._metrics = queue, metrics
        self._keys = itertools.count(1)
        self._begun: dict[int, _Begun] = {}
        self._over: list[_Begun] = []  # nobody waits for them, but runs of theirs are in flight

    def run(self, streams: TokenStreams[int], stop_requested: Callable[[], bool]) -> None:
        """Returns once a signal has come and no request is left, or their time is over."""
        end_s = math.inf
        try:
            while time.monotonic() < end_s:
                if stop_requested() and math.isinf(end_s):
                    self._queue.close()
                    end_s = time.monotonic() + self._config.server.drain_s
                self._cancel(streams, self._queue.take_cancelled())
                self._begin_waiting(streams)
                if math.isfinite(end_s) and not self._begun:
                    return
                # Also with nothing begun: it waits for a while, in which a request may come.
                self._step(streams)
                self._count_over()
                self._metrics.on_state(streams.state, n_waiting=len(self._queue))
        finally:
            self._give_up()

    def _begin_waiting(self, streams: TokenStreams[int]) -> None:
        while len(self._begun) < self._config.server.parallel:
            if (generation := self._queue.take()) is None:
                return
            self._begin(streams, generation)

    def _begin(self, streams: TokenStreams[int], generation: Generation) -> None:
        asked = generation.request
        request = replace(
            self._like,
            prompt=asked.prompt,
            n_max=asked.n_max,
            sample=asked.sample,
            constraint=asked.constraint,
        )
        active = self._head.begin_shared(request, has_drafter=request.speculates)
        builder = active.builder(self._vocab, asked.ends)
        key = next(self._keys)
        self._begun[key] = _Begun(generation, active, builder)
        streams.begin(key, active.scheduler, lambda slot: self._drafter(generation, slot))

    def _drafter(self, generation: Generation, slot: int) -> Drafter | None:
        config = self._config
        sample = generation.request.sample
        return self._drafters.make(config.drafter, config.draft_model, sample, slot=slot)

    def _step(self, streams: TokenStreams[int]) -> None:
        for key, tokens in streams.step():
            if self._feed(self._begun[key], tokens):
                streams.end(key)
                self._end(key)

    @staticmethod
    def _feed(begun: _Begun, tokens: Iterable[int]) -> bool:
        """True if the answer is over; tokens after its end are not in it."""
        for token in tokens:
            begun.generation.put(begun.builder.feed(token))
            if begun.builder.is_over:
                return True
        return False

    def _end(self, key: int) -> None:
        begun = self._begun.pop(key)
        begun.generation.put(begun.builder.finish())
        stats = begun.active.measure()
        answer = begun.active.answer
        self._metrics.on_end(answer)
        self._over.append(begun)
        if error := begun.active.grammar_error:
            begun.generation.end(GrammarError(error))
            return
        begun.generation.end(
            Outcome(
                finish_reason="length" if answer.finish_reason == "length" else "stop",
                stop=begun.builder.found_stop,
                stats=stats,
            )
        )

    def _cancel(self, streams: TokenStreams[int], cancelled: Iterable[Generation]) -> None:
        """Ends those that nobody waits for: what is in flight for them is given up."""
        for generation in cancelled:
            for key, begun in list(self._begun.items()):
                if begun.generation is generation:
                    del self._begun[key]
                    streams.end(key)
                    self._metrics.on_cancel()
                    self._over.append(begun)

    def _count_over(self) -> None:
        """Counts the work for those of which nothing is in flight any more."""
        for begun in [each for each in self._over if each.active.scheduler.is_idle]:
            self._over.remove(begun)
            self._metrics.on_work(begun.active.measure(), begun.active.answer)
            if (left_s := begun.generation.left_s) is not None:
                self._metrics.on_free(time.monotonic() - left_s)

    def _give_up(self) -> None:
        """Those that have not ended never will."""
        self._queue.close()
        error = GenerationError("the server ends")
        for begun in self._begun.values():
            begun.generation.end(error)
        self._begun.clear()
        while (generation := self._queue.take()) is not None:
            generation.end(error)
