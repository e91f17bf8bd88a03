"""The jobs: what the head does with the pipeline that a job has loaded."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from pipeinfer_cli.batch.work import BatchWork
from pipeinfer_cli.bench.config import BenchGroup
from pipeinfer_cli.bench.group import GroupWork
from pipeinfer_cli.calibration.config import CalibrateJob
from pipeinfer_cli.calibration.measure import CalibrateWork
from pipeinfer_cli.chat.config import ChatConfig
from pipeinfer_cli.chat.transcript import message_prompt
from pipeinfer_cli.cluster.emulation import Pretence
from pipeinfer_cli.engine.engine import Engine
from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.errors import RunError
from pipeinfer_cli.launch import environment, signals
from pipeinfer_cli.runtime import pipeline
from pipeinfer_cli.runtime.answer import Answer
from pipeinfer_cli.runtime.config import GenerateConfig, JobConfig, read_prompt
from pipeinfer_cli.runtime.head import Drafters, Head, Request, check_room
from pipeinfer_cli.runtime.pipeline import Plan, Work
from pipeinfer_cli.runtime.token_stream import Writer, answer_tokens
from pipeinfer_cli.scheduler.metrics import Stats
from pipeinfer_cli.trace.observe import watching

if TYPE_CHECKING:
    from mpi4py.MPI import Comm  # noqa: TID251 (only its name)


def run(config: JobConfig, comm: Comm | None) -> int:
    """Carries out the job on this rank; see pipeline.run."""
    if isinstance(config, BenchGroup):
        return pipeline.run(config, comm, partial(GroupWork, config))
    if isinstance(config, CalibrateJob):
        return pipeline.run(config, comm, partial(CalibrateWork, config))
    assert isinstance(config, GenerateConfig)
    if isinstance(config, ChatConfig):
        from pipeinfer_cli.chat.work import ChatWork  # which answers as we do

        return pipeline.run(config, comm, partial(ChatWork, config))
    if config.batch is not None:
        return pipeline.run(config, comm, partial(BatchWork, config, config.batch))
    return pipeline.run(config, comm, partial(prepare_generate, config))


def prepare_generate(config: GenerateConfig, plan: Plan) -> Work:
    """Tokenizes the prompt, checks that it fits, and loads the draft model. Raises UserError."""
    config.pictures.check()
    text = read_prompt(config.prompt)
    vocab = Vocab(plan.files.head_path, verbose=config.verbose)
    prompt = message_prompt(config, vocab, text) if config.chat else vocab.tokenize(text)
    room = check_room(prompt, config.n_ctx, config.n_predict)
    if room < config.n_predict:
        print(
            f"pipeinfer: note: the context of {config.n_ctx} tokens (-c) ends the text "
            f"after {room} tokens instead of {config.n_predict}",
            file=sys.stderr,
        )
    request = make_request(config, plan, vocab, prompt, min(config.n_predict, room))
    return partial(generate, config, plan, request, vocab)


def make_request(
    config: GenerateConfig, plan: Plan, vocab: Vocab, prompt: Sequence[int], n_max: int
) -> Request:
    """The request that the configuration describes; loads the draft model. Raises UserError."""
    is_plain = config.strategy == "iterative"
    return Request(
        prompt=prompt,
        n_max=n_max,
        strategy=config.strategy,
        ablations=config.ablations,
        draft=config.draft,
        drafter=Drafters(config, vocab, plan.draft_cores).make(
            "none" if is_plain else config.drafter, config.draft_model
        ),
        prior=plan.prior(config.draft_model),
        synthetic=_pretence(config, plan).text(vocab.n_tokens),
    )


def generate(
    config: GenerateConfig, plan: Plan, request: Request, vocab: Vocab, engine: Engine
) -> None:
    """The head: streams the text to stdout, and does as --stats and --verify ask."""
    with signals.noted() as asked:
        head = Head(plan, engine, timeout_s=config.timeout_s, asked=asked)
        answer = Answer()
        pretence = _pretence(config, plan)
        for note in pretence.notes():
            print(f"pipeinfer: note: {note}", file=sys.stderr)
        stats = write_text(config, head, request, vocab, answer, pretence)
        for note in head.lateness.notes():
            print(f"pipeinfer: note: {note}", file=sys.stderr)
        if config.stats:
            print(f"pipeinfer: {stats.line()}{pretence.label}", file=sys.stderr)
        asked.check()
        if config.verify:
            with head.begin(replace(request, strategy="iterative")) as plain:
                verify(answer.tokens, plain.tokens)
        asked.check()


def _pretence(config: JobConfig, plan: Plan) -> Pretence:
    return Pretence.of(plan.profile, config.synth_acceptance, config.sample.seed)


def write_text(
    config: GenerateConfig,
    head: Head,
    request: Request,
    vocab: Vocab,
    answer: Answer,
    pretence: Pretence,
) -> Stats:
    """Writes the answer to stdout while it comes."""
    with watching(config.pictures, head.setting(request), pretence.label) as watch:
        writer = Writer(config.format, watch.stdout, seed=config.sample.seed)
        with head.begin(request, watch) as running:
            start_s = time.monotonic()
            try:
                for text in answer_tokens(
                    running.tokens,
                    vocab,
                    request.n_max,
                    ignore_eos=request.ignores_eos(config.ignore_eos),
                    answer=answer,
                    stop=config.stop,
                ):
                    writer.write(text)
            finally:
                stats = running.measure(start_s, answer.times_s)
                watch.finish()
                marks = {**pretence.as_dict(head.lateness), **environment.job_mark(os.environ)}
                writer.finish(answer, stats, marks)
    watch.write_files(config.pictures, stats)
    return stats


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
