"""The head's work in a batch: answers all items, and writes their lines in order."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from pipeinfer_cli import console
from pipeinfer_cli.cluster.emulation import EmulationSettings
from pipeinfer_cli.commands.batch.answers import Answers, ItemResult, SequentialAnswers, Tasks
from pipeinfer_cli.commands.batch.concurrent import ConcurrentAnswers
from pipeinfer_cli.commands.batch.config import BatchConfig
from pipeinfer_cli.commands.batch.feed import Feed, ListFeed, StreamFeed
from pipeinfer_cli.commands.batch.items import BadItem, Item, read_item, read_items
from pipeinfer_cli.commands.batch.lines import KnownIds, check_ids, form_of
from pipeinfer_cli.commands.batch.origin import Origins
from pipeinfer_cli.commands.batch.progress import Progress
from pipeinfer_cli.commands.batch.results import FileSink, ResumePoint, Sink, StdoutSink, check_new
from pipeinfer_cli.commands.batch.turns import in_order
from pipeinfer_cli.commands.chat.template import ChatTemplate
from pipeinfer_cli.commands.chat.transcript import whole_prompt
from pipeinfer_cli.commands.generate import constraint_of
from pipeinfer_cli.engine.engine import Engine
from pipeinfer_cli.errors import RESUME, RunError
from pipeinfer_cli.launch import signals
from pipeinfer_cli.models.shards import digest_of, model_digest
from pipeinfer_cli.runtime.answer import Ends
from pipeinfer_cli.runtime.drafters import Drafters
from pipeinfer_cli.runtime.grammar.compiler import GrammarCompiler
from pipeinfer_cli.runtime.head import Head
from pipeinfer_cli.runtime.pipeline import Plan
from pipeinfer_cli.runtime.vocabulary import load_vocab

LINE_S = 30.0  # how often there is a line of progress, where no bar can be drawn


class BatchWork:
    """What the head does with a batch's pipeline: see pipeline.run.

    Made before the pipeline is loaded; raises UserError if a file cannot be used. That an item
    cannot be answered is its line's matter.
    """

    def __init__(self, config: BatchConfig, plan: Plan) -> None:
        config = replace(config, template=config.template.read(), grammar=config.grammar.read())
        self._config, self._batch, self._plan = config, config.files, plan
        origins = Origins(config, model_digest(plan.files), plan.changes)
        self._form = form_of(config, origins, plan.files.head_path.stem, exact=plan.is_exact)
        self._items: list[Item | BadItem] = []  # none of a stream
        if config.files.is_stream:
            config.files.check_stdin()
        else:
            self._items = read_items(config.files.read(), config)
            check_ids(self._items, self._form)
        self._sink, self._resume_point = self._begun()
        self._template: ChatTemplate | None = None  # made when it is needed
        self._vocab = load_vocab(plan.files.head_path, verbose=config.verbose)
        self._compiler = GrammarCompiler(self._vocab)
        ends = Ends.of(config, self._vocab)
        constraint_of(config, self._compiler, ends)  # says what is wrong
        self._drafters = Drafters(config, self._vocab, plan.draft_cores)
        if config.strategy != "iterative":  # what is wrong with a draft model is said now
            self._drafters.make(config.drafter, config.draft_model)

    def __call__(self, engine: Engine) -> None:
        """Answers what is not answered yet. RunError at the end if any item has failed."""
        config, resume_point = self._config, self._resume_point
        with (
            closing(self._drafters),
            signals.deferred_signals() as stop_request,
            closing(self._open()) as sink,
        ):
            head = Head(self._plan, engine, timeout_s=config.timeout_s, stop_requested=stop_request)
            for note in EmulationSettings.of(
                self._plan.profile, config.synth_acceptance, config.sample.seed
            ).notes():
                console.note(note)
            drafters = self._drafters if self._batch.parallel == 1 else None
            tasks = Tasks(
                config,
                self._plan,
                self._vocab,
                self._form,
                drafters,
                self._chat_prompt,
                self._compiler,
            )
            feed = self._feed()
            progress = Progress(
                n_items=feed.n_items,
                n_before=resume_point.n_items,
                n_failed=resume_point.n_failed,
                start_s=time.monotonic(),
            )
            answers = self._answers(tasks, head, stop_request)
            results = in_order(answers(feed, self._batch.parallel), resume_point.n_items)
            with self._shown(progress) as show:
                self._write(results, sink, progress, show)
            progress.n_items = feed.n_items
            for note in head.overruns.notes():
                console.note(note)
            self._end(progress, stop_request)

    def _feed(self) -> Feed:
        """The items that are not answered yet."""
        if not self._batch.is_stream:
            return ListFeed(self._items, self._resume_point.n_items)
        known = KnownIds(self._form)

        def read(index: int, number: int, line: bytes) -> Item | BadItem:
            item = read_item(index, number, line, self._config)
            if error := known.add(item):
                return BadItem(index=index, id=item.id, error=error, digest=digest_of("", line))
            return item

        return StreamFeed(sys.stdin.fileno(), read)

    def _answers(self, tasks: Tasks, head: Head, stop_requested: Callable[[], bool]) -> Answers:
        if self._batch.parallel == 1:
            return SequentialAnswers(tasks, head, self._vocab, stop_requested)
        return ConcurrentAnswers(
            self._config, tasks, head, self._vocab, self._drafters, stop_requested
        )

    def _begun(self) -> tuple[Sink | None, ResumePoint]:
        """The file to continue; None if it is created once the pipeline is loaded."""
        if self._batch.output is None:
            return StdoutSink(), ResumePoint()
        path = Path(self._batch.output)
        if self._batch.resume and os.path.lexists(path):
            sink, resume_point = FileSink.resume(path, self._items, self._form)
            if n_unknown := resume_point.n_unknown:
                console.note(
                    f"{n_unknown} of {resume_point.n_items} lines in {path} are "
                    "an older version's, which did not record requests: only ids were compared"
                )
            return sink, resume_point
        check_new(path)
        return None, ResumePoint()

    def _open(self) -> Sink:
        if self._sink is not None:
            return self._sink
        assert self._batch.output is not None
        return FileSink.create(Path(self._batch.output))

    def _chat_prompt(self, item: Item) -> list[int]:
        """An item's messages as the chat template puts them. UserError if it cannot."""
        if self._template is None:
            config = self._config
            self._template = ChatTemplate.of(
                self._vocab, config.model, system=config.system, options=config.template
            )
            self._template.say_note()
        return whole_prompt(self._vocab, self._template.text(item.messages, **item.variables))

    def _write(
        self,
        results: Iterator[ItemResult],
        sink: Sink,
        progress: Progress,
        show: Callable[[], None],
    ) -> None:
        for result in results:
            if result.is_interrupted and self._batch.is_resumable:
                return  # it is answered again
            sink.write(result.line)
            if not result.is_interrupted:
                progress.add(result.n_tokens, is_failed=result.is_failed)
            show()

    def _end(self, progress: Progress, stop_request: signals.StopRequest) -> None:
        if self._config.stats:
            print(f"pipeinfer: {progress.summary(time.monotonic())}", file=sys.stderr)
        of_all = "" if progress.n_items is None else f" of {progress.n_items}"
        if progress.n_through != progress.n_items:
            where = f"{progress.n_through}{of_all} items are in {self._batch.output}"
            stop_request.check(f"{where}: {RESUME}" if self._batch.is_resumable else "")
        if progress.n_failed:
            raise RunError(
                f"{progress.n_failed} of {progress.n_items} items failed: their lines in "
                f"{self._batch.output or 'the output'} say why"
            )
        print(f"pipeinfer: {progress.n_items} items, none failed", file=sys.stderr)

    @contextmanager
    def _shown(self, progress: Progress) -> Iterator[Callable[[], None]]:
        """A bar on the terminal while the block runs, or a line now and then; call it often."""
        terminal = self._batch.terminal
        if terminal is not None and terminal.has_stdout and self._batch.output is None:
            yield lambda: None  # the lines themselves show it
        elif terminal is not None:
            with console.items_bar(progress.n_items, terminal) as draw:

                def show() -> None:
                    draw(progress.n_through, progress.line(time.monotonic()))

                show()
                yield show
        else:
            yield _Lines(progress)


class _Lines:
    """A line of progress on stderr, at most every LINE_S."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._last_s = time.monotonic()

    def __call__(self) -> None:
        now_s = time.monotonic()
        if now_s > self._last_s + LINE_S:
            self._last_s = now_s
            print(f"pipeinfer: {self._progress.line(now_s)}", file=sys.stderr)
