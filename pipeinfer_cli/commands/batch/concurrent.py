"""A batch's answers, several at a time through one pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pipeinfer_cli.commands.batch.answers import ItemResult, Tasks
from pipeinfer_cli.commands.batch.feed import Feed
from pipeinfer_cli.commands.batch.items import BadItem, Item
from pipeinfer_cli.commands.generate_config import GenerateConfig
from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.runtime.answer import AnswerBuilder
from pipeinfer_cli.runtime.drafters import Drafters
from pipeinfer_cli.runtime.head import ActiveRequest, Head
from pipeinfer_cli.runtime.text.token_streams import TokenStreams
from pipeinfer_cli.scheduler.interfaces import Drafter


@dataclass(slots=True)
class _Begun:
    """An item that is being answered."""

    item: Item
    active: ActiveRequest
    builder: AnswerBuilder


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

    def __call__(self, feed: Feed, n_parallel: int) -> Iterator[ItemResult]:
        """In the order of their ends. A signal ends them early, with what has come of each."""
        streams: TokenStreams[int]
        with self._head.streams(self._config.strategy) as streams:
            while not self._stop_requested():
                while len(self._begun) < n_parallel and (item := feed.take(0.0)) is not None:
                    if (result := self._begin(item, streams)) is not None:
                        yield result
                if not self._begun and feed.is_through:
                    return
                # Also with nothing begun: it waits for a while, in which an item may come.
                for index, tokens in streams.step():
                    if self._feed(self._begun[index], tokens):
                        streams.end(index)
                        yield self._end(index)
        for index in list(self._begun):
            self._begun[index].active.answer.finish_reason = "interrupted"
            yield self._end(index)

    def _begin(self, item: Item | BadItem, streams: TokenStreams[int]) -> ItemResult | None:
        task = self._tasks.task(item)
        if isinstance(task, ItemResult):
            return task
        item = task.item
        active = self._head.begin_shared(task.request, has_drafter=self._has_drafter)
        builder = active.builder(self._vocab, task.ends)
        self._begun[item.index] = _Begun(item, active, builder)
        streams.begin(item.index, active.scheduler, lambda slot: self._drafter(item, slot))
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

    def _end(self, index: int) -> ItemResult:
        begun = self._begun.pop(index)
        begun.builder.finish()
        return self._tasks.answered(begun.item, begun.active)
