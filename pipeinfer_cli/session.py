"""One request on all ranks: agree on a plan, load the layers, generate (head) or serve (others)."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeinfer_cli import launch, models, mpi
from pipeinfer_cli.config import GenerateConfig, read_prompt
from pipeinfer_cli.draft_model import ModelDrafter, check_same_vocabulary
from pipeinfer_cli.drafters import Drafter, FirstThatKnows, NgramDrafter
from pipeinfer_cli.drafting import DraftThread
from pipeinfer_cli.errors import Interrupted, RunError, UserError
from pipeinfer_cli.gate import Gate
from pipeinfer_cli.head import Answer, TokenStream, Writer, answer_tokens
from pipeinfer_cli.native import Engine, EngineConfig, ModelInfo, capture_log, read_model_info
from pipeinfer_cli.policy import Policy, Strategy
from pipeinfer_cli.scheduler import Scheduler
from pipeinfer_cli.split import LayerRange, split_layers, stage_bytes
from pipeinfer_cli.stats import Setting, measure
from pipeinfer_cli.vocab import Vocab

if TYPE_CHECKING:
    from mpi4py.MPI import Comm  # noqa: TID251 (only its name)

# Most tokens in a run. From 64 on, llama.cpp's attention takes another path on CPUs, whose results
# are not bitwise those of one token at a time; and small runs of a prompt fill the pipeline.
N_BATCH = 32
# After a signal a rank waits this long for the head to end the job.
FAREWELL_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What rank 0 has decided for all ranks."""

    model_path: Path
    model: ModelInfo
    layers: tuple[LayerRange, ...]  # per rank
    n_ctx: int

    @property
    def stage_rank0(self) -> int:
        """The rank of the first stage."""
        return 0 if len(self.layers[0]) else 1

    @property
    def n_batch(self) -> int:
        """Most tokens in a run."""
        return min(N_BATCH, self.n_ctx)

    @property
    def n_stages(self) -> int:
        """Ranks that hold layers."""
        return len(self.layers) - self.stage_rank0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The head's own part: what to generate from."""

    vocab: Vocab
    prompt: list[int]
    n_max: int  # tokens to generate at most
    drafter: Drafter | None


def run(config: GenerateConfig, comm: Comm | None) -> int:
    """Carries out the request on this rank; returns the exit code. `comm` is None for one rank.

    Errors are raised on the rank that meets them, and end the others through MPI's abort.
    """
    capture_log(verbose=config.verbose)
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # it would start a debugger on every rank
    rank, n_ranks = (comm.rank, comm.size) if comm else (0, 1)
    request = None
    plan = None
    if rank == 0:
        plan = make_plan(config, n_ranks)
        request = make_request(config, plan)
    if comm:
        plan = comm.bcast(plan)
    assert plan is not None
    with ExitStack() as stack:
        engine = stack.enter_context(open_engine(config, plan, comm))
        if request is not None:
            generate(config, plan, request, engine)
            return 0
        return serve(engine)


def make_plan(config: GenerateConfig, n_ranks: int) -> Plan:
    """Finds the model and places its layers. Raises UserError."""
    path = models.resolve(config.model)
    info = read_model_info(path)
    weights = config.layer_split
    if weights is None and n_ranks > 1 and config.draft_model and config.strategy != "iterative":
        # the head's cores are the draft model's; the stages share the layers evenly by bytes
        stages = split_layers(info, n_ranks - 1, None)
        weights = (0.0, *(float(len(each)) for each in stages))
    return Plan(
        model_path=path,
        model=info,
        layers=split_layers(info, n_ranks, weights),
        n_ctx=config.n_ctx,
    )


def make_request(config: GenerateConfig, plan: Plan) -> Request:
    """Tokenizes the prompt and checks that it fits. Raises UserError."""
    text = read_prompt(config.prompt)
    vocab = Vocab(plan.model_path, verbose=config.verbose)
    prompt = vocab.tokenize(text)
    if not prompt:
        raise UserError("the prompt is empty, and this model adds no token of its own: give a text")
    # The last generated token is never fed back, so that it needs no cell.
    room = config.n_ctx - len(prompt) + 1
    if room < 2:
        raise UserError(
            f"the prompt has {len(prompt)} tokens, the context {config.n_ctx} "
            f"(-c/--ctx-size): use -c {len(prompt) + config.n_predict} or a shorter prompt"
        )
    if room < config.n_predict:
        print(
            f"pipeinfer: note: the context of {config.n_ctx} tokens (-c) ends the text "
            f"after {room} tokens instead of {config.n_predict}",
            file=sys.stderr,
        )
    return Request(
        vocab=vocab,
        prompt=prompt,
        n_max=min(config.n_predict, room),
        drafter=make_drafter(config, vocab),
    )


def make_drafter(config: GenerateConfig, vocab: Vocab) -> Drafter | None:
    """The drafter that the request asks for. UserError if its vocabulary is not the target's."""
    if config.strategy == "iterative" or config.drafter == "none":
        return None
    if config.drafter == "ngram":
        return NgramDrafter()
    assert config.draft_model is not None
    path = models.resolve(config.draft_model)
    read_model_info(path)  # says what is wrong with the file
    check_same_vocabulary(vocab, Vocab(path, verbose=config.verbose), path)
    model = ModelDrafter(
        path, n_ctx=config.n_ctx, n_threads=config.draft_threads, sample=config.sample
    )
    return model if config.drafter == "model" else FirstThatKnows(NgramDrafter(), model)


def open_engine(config: GenerateConfig, plan: Plan, comm: Comm | None) -> Engine:
    """Loads this rank's layers. RunError on rank 0, naming the ranks, if any rank cannot."""
    resident_before = resident_bytes()
    if comm is None:
        engine = Engine(_engine_config(config, plan, rank=0, local_ranks=1))
        _report([_placement(plan, 0, resident_before)], config.verbose)
        return engine
    mpi.check_one_library()  # now that libpipeinfer is loaded, too
    engine_config = _engine_config(
        config,
        plan,
        rank=comm.rank,
        local_ranks=mpi.ranks_on_this_host(comm),
        comms=(comm.Dup().py2f(), comm.Dup().py2f()),
    )
    opened: Engine | None = None
    error = ""
    try:
        opened = Engine(engine_config)
    except RunError as reason:
        error = f"rank {comm.rank} on {socket.gethostname()}: {reason}"
    errors = [each for each in comm.allgather(error) if each]
    placements = comm.gather(_placement(plan, comm.rank, resident_before))
    if errors:
        if comm.rank > 0:
            time.sleep(FAREWELL_S)  # rank 0 says it and ends all
        raise RunError("; ".join(errors))
    _report(placements or [], config.verbose)
    assert opened is not None
    return opened


def _engine_config(
    config: GenerateConfig,
    plan: Plan,
    *,
    rank: int,
    local_ranks: int,
    comms: tuple[int, int] = (0, 0),
) -> EngineConfig:
    threads = config.threads or launch.default_threads(local_ranks)
    return EngineConfig(
        model_path=plan.model_path,
        rank=rank,
        n_ranks=len(plan.layers),
        stage_rank0=plan.stage_rank0,
        layer_first=plan.layers[rank].first,
        layer_last=plan.layers[rank].last,
        n_ctx=plan.n_ctx,
        n_batch=plan.n_batch,
        n_threads=threads,
        has_own_cores=len(launch.affinity()) >= local_ranks * threads,
        comm_data=comms[0],
        comm_control=comms[1],
        sample=config.sample,
    )


def generate(config: GenerateConfig, plan: Plan, request: Request, engine: Engine) -> None:
    """The head: streams the text to stdout, and does as --stats and --verify ask."""
    answer, writer = Answer(), Writer(config.format, seed=config.sample.seed)
    strategy = config.strategy if request.drafter is not None else "iterative"
    run_ids = itertools.count(1)
    with ExitStack() as stack:
        drafts = None
        if request.drafter is not None:
            drafts = stack.enter_context(closing(DraftThread(request.drafter, engine.nudge)))
        scheduler = _scheduler(config, plan, request, strategy, run_ids)
        tokens = TokenStream(
            engine,
            scheduler,
            timeout_s=config.timeout_s,
            drafts=drafts,
            gate=Gate() if strategy == "auto" else None,
        )
        setting = Setting(
            strategy=strategy,
            n_ranks=len(plan.layers),
            n_stages=plan.n_stages,
            n_prompt=len(request.prompt),
        )
        start_s = time.monotonic()
        try:
            for text in answer_tokens(
                tokens, request.vocab, request.n_max, ignore_eos=config.ignore_eos, answer=answer
            ):
                writer.write(text)
        finally:
            stats = measure(setting, start_s, answer.times_s, scheduler.counters)
            writer.finish(answer, stats)
    if config.stats:
        print(f"pipeinfer: {stats.line()}", file=sys.stderr)
    if config.verify:
        tokens.finish()
        plain = _scheduler(config, plan, request, "iterative", run_ids)
        verify(answer.tokens, TokenStream(engine, plain, timeout_s=config.timeout_s))


def _scheduler(
    config: GenerateConfig,
    plan: Plan,
    request: Request,
    strategy: Strategy,
    run_ids: Iterator[int],
) -> Scheduler:
    policy = Policy.of(strategy, config.draft, n_stages=plan.n_stages, n_batch=plan.n_batch)
    return Scheduler(request.prompt, n_max=request.n_max, policy=policy, run_ids=run_ids)


def verify(tokens: Sequence[int], plain: Iterable[int]) -> None:
    """Says on stderr that plain decoding gives the same tokens; RunError where it does not."""
    for index, (token, expected) in enumerate(zip(tokens, plain, strict=False)):
        if token != expected:
            raise RunError(
                f"--verify: token {index + 1} of {len(tokens)} is {token}, without speculation "
                f"{expected}: please report this, with the model and the command"
            )
    print(f"pipeinfer: verified: {len(tokens)} tokens as without speculation", file=sys.stderr)


def serve(engine: Engine) -> int:
    """A rank that is not the head: its threads do the work until the head ends the job."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all ranks; the head answers it
    try:
        while (code := engine.serve(timeout_s=0.2)) is None:
            pass
        return code
    except Interrupted as interrupted:
        # mostly the head has the same signal, and says so itself
        code = engine.serve(timeout_s=1)
        if code is None:
            engine.report_failure(f"interrupted by {signal.Signals(interrupted.signum).name}")
            code = engine.serve(timeout_s=FAREWELL_S)
        if code is None:
            raise
        return code or interrupted.exit_code


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What one rank holds, and what that costs it."""

    rank: int
    host: str
    layers: LayerRange
    tensor_bytes: int  # that a token's way through this rank reads
    grown_bytes: int  # of the resident set, by loading: tensors, KV cache and compute buffers


def _placement(plan: Plan, rank: int, resident_before: int) -> Placement:
    return Placement(
        rank=rank,
        host=socket.gethostname(),
        layers=plan.layers[rank],
        tensor_bytes=stage_bytes(plan.model, plan.layers[rank]),
        grown_bytes=resident_bytes() - resident_before,
    )


def resident_bytes() -> int:
    """This process's resident set."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _report(placements: list[Placement], verbose: bool) -> None:
    for each in placements if verbose else ():
        print(
            f"pipeinfer: rank {each.rank} on {each.host}: layers {each.layers}, "
            f"{each.tensor_bytes / 1e6:.1f} MB of tensors, "
            f"resident set grown by {each.grown_bytes / 1e6:.1f} MB",
            file=sys.stderr,
        )
