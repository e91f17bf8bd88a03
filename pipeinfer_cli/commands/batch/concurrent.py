"""A batch's answers, several at a time through one pipeline."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pipeinfer_cli.commands.batch.answers import Result, Task, Tasks
from pipeinfer_cli.commands.batch.items import BadItem, Item
from pipeinfer_cli.commands.generate_config import GenerateConfig
from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.runtime.answer import Answer, AnswerBuilder
from pipeinfer_cli.runtime.head import Drafters, Head
from pipeinfer_cli.runtime.token_streams import TokenStreams
from pipeinfer_cli.scheduler.interfaces import Drafter
from pipeinfer_cli.scheduler.metrics import measure
from pipeinfer_cli.scheduler.scheduler import Scheduler


@dataclass(slots=True)
class _Begun:
    """An item that is being answered."""

    task: Task
    builder: AnswerBuilder
    scheduler: Scheduler
    start_s: float


class ConcurrentAnswers:
    """Answers with several requests in the pipeline; see batcher.py."""

    def __init__(
        self,
        config: GenerateConfig,
        tasks: Tasks,
        head: Head,
        vocab: Vocab,
        drafters: Drafters,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        self._config, self._tasks, self._head, self._vocab = config, tasks, head, vocab
        self._drafters, self._stop_requested = drafters, stop_requested
        self._begun: dict[int, _Begun] = {}  # by item

    def __call__(self, items: Iterable[Item | BadItem], n_parallel: int) -> Iterator[Result]:
        """In the order of their ends. A signal ends them early, with what has come of each."""
        todo = iter(items)
        is_through = False
        streams: TokenStreams[int]
        with self._head.streams(self._config.strategy) as streams:
            while not self._stop_requested():
                while not is_through and len(self._begun) < n_parallel:
                    if (item := next(todo, None)) is None:
                        is_through = True
                    elif (result := self._begin(item, streams)) is not None:
                        yield result
                if not self._begun:
                    return
                for index, tokens in streams.step():
                    if self._feed(self._begun[index], tokens):
                        streams.end(index)
                        yield self._end(index)
        for index in list(self._begun):
            self._begun[index].builder.answer.finish_reason = "interrupted"
            yield self._end(index)

    def _begin(self, item: Item | BadItem, streams: TokenStreams[int]) -> Result | None:
        task = self._tasks.task(item)
        if isinstance(task, Result):
            return task
        request = task.request
        scheduler = self._head.scheduler(request, has_drafter=self._has_drafter)
        item = task.item
        builder = AnswerBuilder(
            Answer(),
            self._vocab,
            request.n_max,
            ignore_eos=item.ignore_eos,
            stop=item.stop,
            stop_tokens=task.stop_tokens,
        )
        self._begun[item.index] = _Begun(task, builder, scheduler, time.monotonic())
        streams.begin(item.index, scheduler, lambda slot: self._drafter(item, slot))
        return None

    @property
    def _has_drafter(self) -> bool:
        return self._config.strategy != "iterative" and self._config.drafter != "none"

    def _drafter(self, item: Item, slot: int) -> Drafter | None:
        config = self._config
        return self._drafters.make(config.drafter, config.draft_model, item.sample, slot=slot)

    @staticmethod
    def _feed(begun: _Begun, tokens: Iterable[int]) -> bool:
        """True if the answer is over; tokens after its end are not in it."""
        for token in tokens:
            begun.builder.feed(token)
            if begun.builder.is_over:
                return True
        return False

    def _end(self, index: int) -> Result:
        begun = self._begun.pop(index)
        begun.builder.finish()
        answer, scheduler = begun.builder.answer, begun.scheduler
        info = self._head.info(begun.task.request, n_reused=scheduler.n_reused)
        stats = measure(info, begun.start_s, answer.times_s, scheduler.counters)
        return Result(
            index=index,
            line=self._tasks.line(begun.task.item, answer, stats),
            n_tokens=len(answer.tokens),
            is_interrupted=answer.finish_reason == "interrupted",
        )
