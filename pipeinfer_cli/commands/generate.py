"""`pipeinfer generate`: the head answers one request and writes its text."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TextIO

from pipeinfer_cli import console
from pipeinfer_cli.checks import MAX_COUNT
from pipeinfer_cli.cluster.emulation import EmulationSettings
from pipeinfer_cli.commands.chat.transcript import message_prompt
from pipeinfer_cli.commands.generate_config import GenerateConfig, OutputFormat, read_prompt
from pipeinfer_cli.commands.notes import TrainingNote
from pipeinfer_cli.engine.engine import Engine
from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.errors import OutputError, RunError
from pipeinfer_cli.launch import environment, signals
from pipeinfer_cli.runtime.answer import Answer, Ends
from pipeinfer_cli.runtime.config import JobConfig
from pipeinfer_cli.runtime.drafters import Drafters
from pipeinfer_cli.runtime.grammar.compiler import GrammarCompiler
from pipeinfer_cli.runtime.grammar.matcher import GrammarState
from pipeinfer_cli.runtime.head import Head, Request, check_room
from pipeinfer_cli.runtime.pipeline import Plan, Work
from pipeinfer_cli.runtime.vocabulary import PlainPrompts, load_vocab
from pipeinfer_cli.scheduler.metrics import Stats
from pipeinfer_cli.trace.observe import tracing


def prepare_generate(config: GenerateConfig, plan: Plan) -> Work:
    """Tokenizes the prompt, checks that it fits, and loads the draft model. Raises UserError."""
    config.pictures.check()
    text = read_prompt(config.prompt)
    vocab = load_vocab(plan.files.head_path, verbose=config.verbose)
    if config.chat:
        prompt = message_prompt(config, vocab, text)
    else:
        prompt = PlainPrompts(vocab).tokens(text)
    ends = Ends.of(config, vocab)  # says what is wrong with its tokens
    constraint = constraint_of(config, GrammarCompiler(vocab), ends)
    room = check_room(prompt, config.n_ctx, config.n_predict)
    if room < config.n_predict < MAX_COUNT:
        console.note(
            f"the context of {config.n_ctx} tokens (-c) ends the text "
            f"after {room} tokens instead of {config.n_predict}"
        )
    TrainingNote(config, plan)(len(prompt) + min(config.n_predict, room))
    request = make_request(config, plan, vocab, prompt, min(config.n_predict, room))
    request = replace(request, constraint=constraint)
    return partial(generate, config, plan, request, vocab)


def constraint_of(
    config: GenerateConfig, compiler: GrammarCompiler, ends: Ends
) -> GrammarState | None:
    """What the text must follow, if there is a grammar. UserError if that is wrong."""
    source = config.grammar.read().source
    return compiler.start(source, ends.stop_tokens) if source is not None else None


def make_request(
    config: GenerateConfig,
    plan: Plan,
    vocab: Vocab,
    prompt: Sequence[int],
    n_max: int,
    drafters: Drafters | None = None,
) -> Request:
    """The request that the configuration describes; loads the draft model. Raises UserError."""
    is_plain = config.strategy == "iterative"
    drafters = drafters or Drafters(config, vocab, plan.draft_cores)
    return Request(
        prompt=prompt,
        n_max=n_max,
        strategy=config.strategy,
        draft=config.draft,
        drafter=drafters.make("none" if is_plain else config.drafter, config.draft_model),
        prior=plan.prior(config.draft_model),
        synthetic=_emulation(config, plan).text(vocab.n_tokens),
    )


def generate(
    config: GenerateConfig, plan: Plan, request: Request, vocab: Vocab, engine: Engine
) -> None:
    """The head: streams the text to stdout, and does as --stats and --verify ask."""
    with signals.deferred_signals() as stop_request:
        head = Head(plan, engine, timeout_s=config.timeout_s, stop_requested=stop_request)
        emulation = _emulation(config, plan)
        for note in emulation.notes():
            console.note(note)
        answer, stats = write_text(config, head, request, vocab, emulation)
        for note in head.overruns.notes():
            console.note(note)
        if config.stats:
            print(f"pipeinfer: {stats.line()}{emulation.label}", file=sys.stderr)
        stop_request.check()
        if config.verify:
            with head.begin(replace(request, strategy="iterative")) as plain:
                verify(answer.tokens, plain.tokens)
        stop_request.check()


def _emulation(config: JobConfig, plan: Plan) -> EmulationSettings:
    return EmulationSettings.of(plan.profile, config.synth_acceptance, config.sample.seed)


def write_text(
    config: GenerateConfig,
    head: Head,
    request: Request,
    vocab: Vocab,
    emulation: EmulationSettings,
) -> tuple[Answer, Stats]:
    """Writes the answer to stdout while it comes."""
    with tracing(config.pictures, head.info(request), emulation.label) as tracer:
        writer = AnswerWriter(config.format, tracer.stdout, seed=config.sample.seed)
        with head.begin(request, tracer) as active:
            try:
                for text in active.text(vocab, Ends.of(config, vocab)):
                    writer.write(text)
            finally:
                stats = active.measure()
                marks = {
                    "exact": head.is_exact,
                    **head.changes,
                    **emulation.as_dict(head.overruns),
                    **environment.job_mark(os.environ),
                }
                writer.finish(active.answer, stats, marks)
    tracer.write_files(config.pictures, stats)
    if error := active.grammar_error:
        raise RunError(error)
    return active.answer, stats


def verify(tokens: Sequence[int], plain: Iterable[int]) -> None:
    """Says on stderr that plain decoding gives the same tokens; RunError where it does not."""
    index = -1
    for index, (token, expected) in enumerate(zip(tokens, plain, strict=False)):
        if token != expected:
            raise RunError(
                f"--verify: token {index + 1} of {len(tokens)} is {token}, without speculation "
                f"{expected}: please report this, with the model and the command"
            )
    if index + 1 == len(tokens):  # else interrupted
        print(f"pipeinfer: verified: {len(tokens)} tokens as without speculation", file=sys.stderr)


class AnswerWriter:
    """Puts the answer on stdout: text as it comes, or one JSON object at the end."""

    def __init__(
        self, output_format: OutputFormat, stdout: TextIO = sys.stdout, *, seed: int
    ) -> None:
        self._is_json = output_format == "json"
        self._seed = seed
        self._stdout = stdout
        self._last = ""

    def write(self, text: str) -> None:
        """A piece of the text."""
        if not self._is_json:
            self._put(text)
            self._last = text

    def finish(self, answer: Answer, stats: Stats, marks: Mapping[str, Any] | None = None) -> None:
        """The end, also after an error: whatever was produced is kept. JSON has `marks`, too."""
        if self._is_json:
            fields = {**_as_json(answer, stats, self._seed), **(marks or {})}
            self._put(json.dumps(fields, ensure_ascii=False) + "\n")
        elif not self._last.endswith("\n"):
            self._put("\n")

    def _put(self, text: str) -> None:
        try:
            self._stdout.buffer.write(text.encode(errors="replace"))
            self._stdout.buffer.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(error) from None


def _as_json(answer: Answer, stats: Stats, seed: int) -> dict[str, Any]:
    return {
        "text": answer.text,
        "tokens": answer.tokens,
        "n_prompt": stats.n_prompt,
        "seed": seed,
        "finish_reason": answer.finish_reason,
        "stats": stats.as_dict(),
    }
