"""The parts of the benchmark: which contests there are, and who competes in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

from beside import models, process, texts
from beside.contest import OURS, THEIRS, Contender, Contest, Measurement
from beside.ours import Ours
from beside.tools import NGRAM_TYPES, Tools

PLAIN = ("--strategy", "iterative", "--drafter", "none")
DRAFT_MAXES = (2, 4, 8)
TUNED_MAXES, TUNED_P_MINS = (2, 3, 4, 8, 16), ("0", "0.75")
LOOKUP_MAXES = (3, 8, 16)
N_PARALLEL, N_PROMPTS, N_BATCH_PREDICT = 4, 24, 32
SPEED = "tokens/s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What was asked for, and where the programs are."""

    pipeinfer: str
    tools: Path
    threads: tuple[int, ...]
    types: tuple[str, ...]
    models: tuple[str, ...]
    drafts: tuple[str, ...]
    prompt_lengths: tuple[int, ...]
    n_predict: int

    def pair(self, model: Path, n_threads: int, n_ctx: int = 1024) -> tuple[Ours, Tools]:
        """Both, with the same model, threads and context."""
        ours = Ours(program=self.pipeinfer, model=model, n_threads=n_threads, n_ctx=n_ctx)
        return ours, Tools(folder=self.tools, model=model, n_threads=n_threads, n_ctx=n_ctx)

    def targets(self) -> Iterator[tuple[str, Path]]:
        """Label and file of each model and type."""
        for name, file_type in product(self.models, self.types):
            yield f"{name} {file_type}", models.target(self.pipeinfer, name, file_type)


def ours(name: str, measure: Callable[[], Measurement], *, always: bool = False) -> Contender:
    """A contender of our side."""
    return Contender(name=name, side=OURS, measure=measure, always=always)


def theirs(name: str, measure: Callable[[], Measurement]) -> Contender:
    """A contender of the other side."""
    return Contender(name=name, side=THEIRS, measure=measure)


def plain(setup: Setup) -> Iterator[Contest]:
    """Plain decoding, one process."""
    for (label, model), n_threads in product(setup.targets(), setup.threads):
        mine, tools = setup.pair(model, n_threads)
        contenders = [
            ours("pipeinfer", partial(mine.speed, texts.STORY, setup.n_predict, PLAIN)),
            theirs("llama-completion", partial(tools.speed, texts.STORY, setup.n_predict)),
        ]
        if n_threads == 1:  # the prompt, too, one token at a time: the very same ids
            measure = partial(tools.speed, texts.STORY, setup.n_predict, "-b", "1", "-ub", "1")
            check = theirs("llama-completion -b 1", measure)
            check.is_check = True
            contenders.append(check)
        yield Contest(
            case=f"{label}, {n_threads} thread(s)",
            unit=SPEED,
            contenders=contenders,
            reference="llama-completion",
        )


def prompt(setup: Setup) -> Iterator[Contest]:
    """Prompts: one rank, and as many ranks of one thread as there are threads."""
    for (label, model), n_tokens in product(setup.targets(), setup.prompt_lengths):
        text = models.words(models.smollm2(setup.pipeinfer), n_tokens)
        for n_threads in setup.threads:
            mine, tools = setup.pair(model, n_threads, n_ctx=n_tokens + 64)
            contenders = [
                ours("pipeinfer", partial(mine.prompt_speed, text)),
                theirs("llama-completion", partial(tools.prompt_speed, text)),
            ]
            if n_threads > 1:
                ranks = replace(mine, n_threads=1, n_ranks=n_threads)
                contenders.append(
                    ours(f"pipeinfer, {n_threads} ranks", partial(ranks.prompt_speed, text))
                )
            yield Contest(
                case=f"{label}, {n_tokens} tokens, {n_threads} thread(s)",
                unit=SPEED,
                contenders=contenders,
                reference="llama-completion",
            )


def draft(setup: Setup) -> Iterator[Contest]:
    """`deep` as F16 with a draft model."""
    target = models.target(setup.pipeinfer, "deep", "F16")
    for name, n_threads in product(setup.drafts, setup.threads):
        path = models.draft(setup.pipeinfer, name)
        mine, tools = setup.pair(target, n_threads)
        contenders = [
            *_our_drafts(setup, mine, path, ""),
            theirs("llama-completion", partial(tools.speed, texts.STORY, setup.n_predict)),
        ]
        if n_threads > 1:
            for n_ranks in (2, 3):
                ranks = replace(mine, n_threads=1, n_ranks=n_ranks)
                contenders += _our_drafts(setup, ranks, path, f", {n_ranks} ranks of one thread")
        for n_max, p_min in product(TUNED_MAXES, TUNED_P_MINS):
            options = ["--spec-draft-n-max", str(n_max), "--spec-draft-p-min", p_min]
            measure = partial(tools.draft_speed, path, texts.STORY, setup.n_predict, *options)
            contenders.append(theirs(f"speculative-simple {n_max}, p-min {p_min}", measure))
        yield Contest(
            case=f"deep F16, draft {name}, {n_threads} thread(s)",
            unit=SPEED,
            contenders=contenders,
            reference="llama-completion",
            n_heat=2,
        )


def _our_drafts(setup: Setup, mine: Ours, path: Path, where: str) -> list[Contender]:
    model = ["-md", str(path), "--drafter", "model"]

    def one(strategy: str, *options: str) -> Callable[[], Measurement]:
        whole = [*model, "--strategy", strategy, *options]
        return partial(mine.speed, texts.STORY, setup.n_predict, whole)

    chosen = [
        ours(f"{strategy} {n_max}{where}", one(strategy, "--draft-max", str(n_max)))
        for strategy, n_max in product(("speculative", "pipeinfer"), DRAFT_MAXES)
    ]
    return [ours(f"auto{where}", one("auto"), always=True), *chosen]


def ngram(setup: Setup) -> Iterator[Contest]:
    """Drafts from n-grams, of a text that repeats itself and of one that does not."""
    for (label, model), n_threads in product(setup.targets(), setup.threads):
        for kind, text in (("repeats", texts.CODE), ("does not repeat", texts.STORY)):
            mine, tools = setup.pair(model, n_threads)
            contenders = [
                ours(
                    strategy,
                    partial(
                        mine.speed,
                        text,
                        setup.n_predict,
                        ("--drafter", "ngram", "--strategy", strategy),
                    ),
                    always=strategy == "auto",
                )
                for strategy in ("auto", "speculative", "pipeinfer")
            ]
            contenders += [
                theirs(f"lookup {n}", partial(tools.lookup_speed, text, setup.n_predict, n))
                for n in LOOKUP_MAXES
            ]
            contenders += [
                theirs(each, partial(tools.ngram_speed, each, text, setup.n_predict))
                for each in NGRAM_TYPES
            ]
            yield Contest(
                case=f"{label}, text {kind}, {n_threads} thread(s)",
                unit=SPEED,
                contenders=contenders,
                reference="lookup 3",
                n_heat=2,
            )


def rpc(setup: Setup) -> Iterator[Contest]:
    """Two ranks of one thread, beside llama.cpp over two RPC servers of one thread."""
    for label, model in setup.targets():
        mine, tools = setup.pair(model, 1)
        measure = partial(replace(mine, n_ranks=2).speed, texts.STORY, setup.n_predict, PLAIN)
        over_rpc = partial(tools.rpc_speed, texts.STORY, setup.n_predict, 2)
        yield Contest(
            case=f"{label}, 2 processes of one thread",
            unit=SPEED,
            contenders=[ours("pipeinfer, 2 ranks", measure), theirs("RPC, 2 servers", over_rpc)],
            reference="RPC, 2 servers",
        )


def parallel(setup: Setup) -> Iterator[Contest]:
    """Many prompts, several at once."""
    work = (texts.numbered(N_PROMPTS), N_BATCH_PREDICT, N_PARALLEL)
    cases = [*setup.targets(), ("30 layers F16", models.small(setup.pipeinfer, "F16"))]
    for (label, model), n_threads in product(cases, setup.threads):
        mine, tools = setup.pair(model, n_threads)
        contenders = [
            ours("pipeinfer", partial(mine.batch_speed, *work)),
            theirs("llama-server", partial(tools.server_speed, *work)),
        ]
        if n_threads > 1:
            ranks = replace(mine, n_threads=1, n_ranks=n_threads)
            contenders.append(
                ours(f"pipeinfer, {n_threads} ranks", partial(ranks.batch_speed, *work))
            )
        yield Contest(
            case=f"{label}, {N_PROMPTS} prompts by {N_PARALLEL}, {n_threads} thread(s)",
            unit=SPEED,
            contenders=contenders,
            reference="llama-server",
        )


def startup(setup: Setup) -> Iterator[Contest]:
    """From a command's start to its first output, and to its end: 16 tokens, one thread."""
    for is_exit in (False, True):

        def measure(command: list[str], *, is_exit: bool = is_exit) -> Measurement:
            times = process.time_start(command)
            return Measurement(value=times.exit_s if is_exit else times.first_output_s)

        yield from _by_command(setup, "exit" if is_exit else "first token", "s", measure)


def memory(setup: Setup) -> Iterator[Contest]:
    """The largest resident and proportional sets, over all processes: 16 tokens, one thread."""
    for index, name in enumerate(("RSS", "PSS")):

        def measure(command: list[str], *, index: int = index) -> Measurement:
            return Measurement(value=process.peak_memory_mb(command)[index])

        yield from _by_command(setup, name, "MB", measure)


def _by_command(
    setup: Setup, what: str, unit: str, measure: Callable[[list[str]], Measurement]
) -> Iterator[Contest]:
    """Whole commands beside each other, of one to three ranks; less is better."""
    cases = [*setup.targets(), ("30 layers Q4_1", models.smollm2(setup.pipeinfer))]
    for label, model in cases:
        mine, tools = setup.pair(model, 1)
        contenders = [
            ours(
                f"pipeinfer, {n_ranks} rank(s)",
                partial(
                    measure, replace(mine, n_ranks=n_ranks).command(16, *PLAIN, "--", texts.STORY)
                ),
            )
            for n_ranks in (1, 2, 3)
        ]
        command = tools.completion_command(texts.STORY, 16)
        contenders.append(theirs("llama-completion", partial(measure, command)))
        yield Contest(
            case=f"{label}, {what}",
            unit=unit,
            contenders=contenders,
            reference="llama-completion",
            lower_is_better=True,
        )


PARTS: dict[str, Callable[[Setup], Iterator[Contest]]] = {
    "plain": plain,
    "prompt": prompt,
    "draft": draft,
    "ngram": ngram,
    "rpc": rpc,
    "parallel": parallel,
    "startup": startup,
    "memory": memory,
}
