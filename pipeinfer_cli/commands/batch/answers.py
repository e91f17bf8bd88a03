"""A batch's answers: the interface, and answering one item after the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeinfer_cli.cluster.emulation import EmulationSettings
from pipeinfer_cli.commands.batch.feed import Feed
from pipeinfer_cli.commands.batch.items import BadItem, Item
from pipeinfer_cli.commands.batch.lines import LineForm
from pipeinfer_cli.commands.batch.results import to_line
from pipeinfer_cli.commands.generate_config import GenerateConfig
from pipeinfer_cli.commands.notes import TrainingNote
from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.launch import environment
from pipeinfer_cli.runtime.answer import Answer, Ends
from pipeinfer_cli.runtime.drafters import Drafters
from pipeinfer_cli.runtime.grammar.compiler import GrammarCompiler
from pipeinfer_cli.runtime.grammar.matcher import GrammarState
from pipeinfer_cli.runtime.head import ActiveRequest, Head, Request, check_room
from pipeinfer_cli.runtime.pipeline import Plan
from pipeinfer_cli.runtime.vocabulary import PlainPrompts
from pipeinfer_cli.scheduler.interfaces import Drafter
from pipeinfer_cli.scheduler.metrics import Stats

WAIT_S = 0.1  # for an item: how soon a signal is obeyed
# What a line says of the speed with --stats: times differ from run to run.
LINE_STATS = ("n_reused", "tokens_per_s", "ttft_ms", "total_ms", "n_drafted", "n_accepted")


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemResult:
    """An item is through."""

    index: int
    line: bytes
    n_tokens: int = 0  # generated
    is_failed: bool = False
    is_interrupted: bool = False  # by a signal: the answer can be continued


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """An item as a request to the pipeline."""

    item: Item
    request: Request
    ends: Ends


# Answers the items in any order, with at most this number of them in the pipeline at once.
Answers = Callable[[Feed, int], Iterator[ItemResult]]


class Tasks:
    """Makes requests of items, and lines of what comes of them."""

    def __init__(
        self,
        config: GenerateConfig,
        plan: Plan,
        vocab: Vocab,
        form: LineForm,
        drafters: Drafters | None,  # None: others see to them
        chat_prompt: Callable[[Item], list[int]],
        compiler: GrammarCompiler,
    ) -> None:
        self._config, self._plan, self._vocab = config, plan, vocab
        self._form = form
        self._note_training = TrainingNote(config, plan)
        self._drafters, self._chat_prompt = drafters, chat_prompt
        self._prompts = PlainPrompts(vocab)
        self._compiler = compiler

    def task(self, item: Item | BadItem) -> Task | ItemResult:
        """The item's request, or a line that says why there is none."""
        if isinstance(item, BadItem):
            return self._failed(item, item.error)
        try:
            ends = Ends.of(item, self._vocab)
            request = replace(self._request(item), constraint=self._constraint(item, ends))
            return Task(item=item, request=request, ends=ends)
        except UserError as error:
            return self._failed(item, str(error))

    def answered(self, item: Item, active: ActiveRequest) -> ItemResult:
        """The result of an item whose answer is over, or was interrupted."""
        answer = active.answer
        if error := active.grammar_error:
            return self._failed(item, error)
        return ItemResult(
            index=item.index,
            line=self._line(item, answer, active.measure()),
            n_tokens=len(answer.tokens),
            is_interrupted=answer.finish_reason == "interrupted",
        )

    def _line(self, item: Item, answer: Answer, stats: Stats) -> bytes:
        """What is written of an answer: always the same without --stats and a batch system."""
        fields = self._form.answer(item, answer, stats)
        fields.update(environment.job_mark(os.environ))
        if self._config.stats:
            fields["stats"] = _short(stats.as_dict())
        return to_line(fields)

    def _failed(self, item: Item | BadItem, error: str) -> ItemResult:
        """The result of an item that cannot be answered."""
        line = to_line(self._form.error(item, error))
        return ItemResult(index=item.index, line=line, is_failed=True)

    def _request(self, item: Item) -> Request:
        config = self._config
        if item.prompt is None:
            prompt = self._chat_prompt(item)
        else:
            prompt = self._prompts.tokens(item.prompt)
        room = check_room(prompt, config.n_ctx, item.n_predict)
        self._note_training(len(prompt) + min(item.n_predict, room))
        emulation = EmulationSettings.of(
            self._plan.profile, config.synth_acceptance, item.sample.seed
        )
        return Request(
            prompt=prompt,
            n_max=min(item.n_predict, room),
            strategy=config.strategy,
            draft=config.draft,
            drafter=self._drafter(item),
            prior=self._plan.prior(config.draft_model),
            sample=item.sample,
            reuse=True,
            synthetic=emulation.text(self._vocab.n_tokens),
        )

    def _constraint(self, item: Item, ends: Ends) -> GrammarState | None:
        if item.grammar is None:
            return None
        return self._compiler.start(item.grammar, ends.stop_tokens)

    def _drafter(self, item: Item) -> Drafter | None:
        config = self._config
        if self._drafters is None or config.strategy == "iterative":
            return None
        return self._drafters.make(config.drafter, config.draft_model, item.sample)


class SequentialAnswers:
    """Answers with one request in the pipeline at a time."""

    def __init__(
        self,
        tasks: Tasks,
        head: Head,
        vocab: Vocab,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        self._tasks, self._head, self._vocab, self._stop_requested = (
            tasks,
            head,
            vocab,
            stop_requested,
        )

    def __call__(self, feed: Feed, _n_parallel: int) -> Iterator[ItemResult]:
        """Ends early if a signal asks for it, with what has come of the last answer."""
        while not (feed.is_through or self._stop_requested()):
            if (item := feed.take(WAIT_S)) is None:
                continue
            task = self._tasks.task(item)
            yield task if isinstance(task, ItemResult) else self._answer(task)

    def _answer(self, task: Task) -> ItemResult:
        return self._tasks.answered(
            task.item, self._head.answer(task.request, self._vocab, task.ends)
        )


def _short(stats: Mapping[str, Any]) -> dict[str, Any]:
    rounded = {name: stats[name] for name in LINE_STATS if name in stats}
    return {k: round(v, 3) if isinstance(v, float) else v for k, v in rounded.items()}
