"""The command line: options into a configuration, one call, and errors into exit codes."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

import typer

from pipeinfer_cli import (
    cli_bench,
    cli_simulate,
    interrupt,
    launch,
    model_commands,
    options,
    spawned,
)
from pipeinfer_cli import config as cfg
from pipeinfer_cli.batch import options as batch_options
from pipeinfer_cli.batch.config import RESUME
from pipeinfer_cli.chat import options as chat_options
from pipeinfer_cli.emulation.flags import EmulateOption, SynthAcceptanceOption
from pipeinfer_cli.errors import (
    Interrupted,
    OutputClosedError,
    OutputError,
    PipeinferError,
    UserError,
    exit_code_of,
)
from pipeinfer_cli.logs import LOG, LogFile
from pipeinfer_cli.options import integer as _integer
from pipeinfer_cli.options import number as _number
from pipeinfer_cli.policy import ABLATIONS, DraftConfig, DrafterKind, Strategy
from pipeinfer_cli.printable import printable
from pipeinfer_cli.sampling import DEFAULT_SAMPLE, SampleParams
from pipeinfer_cli.trace import options as picture_options
from pipeinfer_cli.trace.config import Pictures

# Under a launcher the first rank that ends takes the others down; rank 0 speaks for all.
SILENT_RANK_WAIT_S = 1.0

# Newer versions of typer carry a click of their own: only this way is its base class found.
_CLICK_ERROR: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

# Commands only say what to do: click has ideas of its own about errors in them (Ctrl-C, EPIPE).
Action = Callable[[], int]

app = typer.Typer(
    name="pipeinfer",
    help="Text from a GGUF model whose layers are split over MPI ranks.",
    add_completion=False,
    no_args_is_help=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command()(cli_simulate.simulate)
model_commands.register(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"pipeinfer {_version()}")
        raise typer.Exit


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("pipeinfer")
    except PackageNotFoundError:  # a source tree
        return "(not installed)"


@app.callback()
def _global_options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    pass


@app.command()
def generate(
    model: Annotated[str, typer.Option("-m", "--model", help="A GGUF path, or a model's name.")],
    prompt: Annotated[
        str | None, typer.Argument(help="The prompt; without it (or with -) it is read from stdin.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("-f", "--file", help="A file with the prompt.")
    ] = None,
    n_predict: Annotated[
        int,
        typer.Option(
            "-n", "--n-predict", parser=_integer, metavar="N", help="Tokens to generate at most."
        ),
    ] = cfg.DEFAULT_N_PREDICT,
    ctx_size: Annotated[
        int,
        typer.Option(
            "-c",
            "--ctx-size",
            parser=_integer,
            metavar="N",
            help="Room for prompt and text, in tokens.",
        ),
    ] = cfg.DEFAULT_N_CTX,
    ranks: Annotated[
        int | None,
        typer.Option(
            "--ranks",
            parser=_integer,
            metavar="N",
            help="Local ranks to start; default: one per NUMA node.",
        ),
    ] = None,
    layer_split: Annotated[
        str,
        typer.Option(
            "--layer-split",
            metavar="WEIGHTS",
            help="A weight per rank (2,1,1), or auto: even by time if calibrated, else by bytes.",
        ),
    ] = "auto",
    threads: options.Threads = None,
    plan: options.PlanOnly = False,
    report_binding: options.ReportBinding = False,
    temp: Annotated[
        float,
        typer.Option("--temp", parser=_number, metavar="T", help="Temperature; 0 is greedy."),
    ] = DEFAULT_SAMPLE.temperature,
    top_k: Annotated[
        int,
        typer.Option(
            "--top-k",
            parser=_integer,
            metavar="N",
            help="With --temp: draw from the N most likely tokens; 0: all.",
        ),
    ] = DEFAULT_SAMPLE.top_k,
    top_p: Annotated[
        float,
        typer.Option(
            "--top-p",
            parser=_number,
            metavar="P",
            help="With --temp: of these, as few as have probability P together; 1: all.",
        ),
    ] = DEFAULT_SAMPLE.top_p,
    min_p: Annotated[
        float,
        typer.Option(
            "--min-p",
            parser=_number,
            metavar="P",
            help="With --temp: of these, all with P times the largest probability; 0: all.",
        ),
    ] = DEFAULT_SAMPLE.min_p,
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            parser=_integer,
            metavar="N",
            help="With --temp: same model, prompt and options, same text; another seed, another.",
        ),
    ] = DEFAULT_SAMPLE.seed,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Go on at end-of-generation tokens.")
    ] = False,
    stop: chat_options.Stop = None,
    chat: chat_options.Chat = False,
    system: chat_options.System = None,
    stats: Annotated[bool, typer.Option("--stats", help="Say on stderr how fast it was.")] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Decode again without speculation; say where texts differ."),
    ] = False,
    format_: Annotated[
        str,
        typer.Option("--format", metavar="text|json", help="text, or json: one object at the end."),
    ] = "text",
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            parser=_number,
            metavar="SECONDS",
            help="End when no stage gets on with anything for so long.",
        ),
    ] = cfg.DEFAULT_TIMEOUT_S,
    strategy: Annotated[
        str,
        typer.Option(
            "--strategy", metavar="NAME", help="iterative, speculative, pipeinfer or auto."
        ),
    ] = "auto",
    draft_model: Annotated[
        str | None,
        typer.Option("-md", "--model-draft", help="A draft model: a GGUF path, or a model's name."),
    ] = None,
    drafter: Annotated[
        str | None,
        typer.Option(
            "--drafter",
            metavar="NAME",
            help="none, ngram, model or both; default: model with -md, else ngram.",
        ),
    ] = None,
    draft_max: Annotated[
        int,
        typer.Option(
            "--draft-max", parser=_integer, metavar="N", help="Drafted tokens per run at most."
        ),
    ] = cfg.DEFAULT_DRAFT.n_max,
    draft_min: Annotated[
        int,
        typer.Option(
            "--draft-min",
            parser=_integer,
            metavar="N",
            help="Shorter drafts are dropped (speculative).",
        ),
    ] = cfg.DEFAULT_DRAFT.n_min,
    draft_p_min: Annotated[
        float,
        typer.Option(
            "-pa",
            "--draft-p-min",
            parser=_number,
            metavar="P",
            help="A draft ends below this confidence.",
        ),
    ] = cfg.DEFAULT_DRAFT.p_min,
    p_recovery: Annotated[
        float,
        typer.Option(
            "-pr",
            "--draft-p-recovery",
            parser=_number,
            metavar="P",
            help="The cutoff rises by this at a miss.",
        ),
    ] = cfg.DEFAULT_DRAFT.p_recovery,
    p_decay: Annotated[
        float,
        typer.Option(
            "-pd",
            "--draft-p-decay",
            parser=_number,
            metavar="P",
            help="It falls by this when stages would idle.",
        ),
    ] = cfg.DEFAULT_DRAFT.p_decay,
    draft_width: Annotated[
        int,
        typer.Option(
            "--draft-width",
            parser=_integer,
            metavar="N",
            help="Candidates per position; more than one draft a tree.",
        ),
    ] = cfg.DEFAULT_DRAFT.width,
    draft_p_split: Annotated[
        float,
        typer.Option(
            "--draft-p-split",
            parser=_number,
            metavar="P",
            help="Further candidates below this confidence get no branch.",
        ),
    ] = cfg.DEFAULT_DRAFT.p_split,
    draft_threads: Annotated[
        int,
        typer.Option(
            "--draft-threads", parser=_integer, metavar="N", help="Threads of the draft model."
        ),
    ] = 1,
    prompts: batch_options.Prompts = None,
    output: batch_options.Output = None,
    resume: batch_options.Resume = False,
    parallel: batch_options.Parallel = batch_options.DEFAULT_PARALLEL,
    trace: picture_options.Trace = None,
    plot: picture_options.Plot = None,
    plot_window: picture_options.PlotWindow = None,
    live: picture_options.Live = False,
    no_continuous: Annotated[
        bool,
        typer.Option(
            "--no-continuous", help="pipeinfer, but one draft after the other's end (to compare)."
        ),
    ] = False,
    no_cancel: Annotated[
        bool,
        typer.Option("--no-cancel", help="pipeinfer, but wrong runs are computed to their end."),
    ] = False,
    no_reactive: Annotated[
        bool, typer.Option("--no-reactive", help="pipeinfer, but with a fixed cutoff (-pa).")
    ] = False,
    emulate: EmulateOption = None,
    synth_acceptance: SynthAcceptanceOption = None,
    log_file: LogFile = None,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Say more on stderr.")] = False,
) -> Action:
    """Generate text. Joins the world of mpirun or srun; alone it starts --ranks local ranks."""
    from pipeinfer_cli.generate import generate as run

    return partial(
        run,
        cfg.GenerateConfig(
            model=model,
            prompt=cfg.Prompt.from_options(prompt, file),
            n_predict=n_predict,
            n_ctx=ctx_size,
            ranks=ranks,
            layer_split=cfg.parse_layer_split(layer_split),
            threads=threads,
            plan_only=plan,
            report_binding=report_binding,
            sample=SampleParams(temperature=temp, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed),
            ignore_eos=ignore_eos,
            stop=tuple(stop or ()),
            chat=chat,
            system=system,
            stats=stats,
            verify=verify,
            format=cfg.parse_format(format_),
            verbose=verbose,
            timeout_s=timeout,
            log_file=log_file,
            strategy=cast("Strategy", strategy),
            ablations=tuple(compress(ABLATIONS, (no_continuous, no_cancel, no_reactive))),
            drafter=cast("DrafterKind", drafter or ("model" if draft_model else "ngram")),
            draft_model=draft_model,
            draft_threads=draft_threads,
            emulate=emulate,
            synth_acceptance=synth_acceptance,
            draft=DraftConfig(
                n_max=draft_max,
                n_min=draft_min,
                p_min=draft_p_min,
                p_recovery=p_recovery,
                p_decay=p_decay,
                width=draft_width,
                p_split=draft_p_split,
            ),
            pictures=Pictures.from_options(trace, plot, plot_window, live),
            batch=batch_options.files(prompts, output, resume, parallel),
        ),
    )


app.command()(chat_options.command(generate))
app.command()(cli_bench.bench)


@app.command()
def doctor() -> Action:
    """Check what is installed and how it fits; exit code 1 if generation cannot work."""
    from pipeinfer_cli import doctor as doctor_

    return doctor_.run


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; every error becomes a line and an exit code here, nowhere else."""
    args = list(sys.argv[1:] if argv is None else argv)
    place = spawned.folder()
    if place is not None:
        from pipeinfer_cli.generate import run_spawned

        return run_rank(place, lambda: run_spawned(place))
    interrupt.raise_on_signals()
    resume = RESUME if batch_options.asks_for_file(args) else ""

    def command() -> int:
        with interrupt.resumable(resume):
            return _command(args)

    return guard(command, verbose=bool({"-v", "--verbose"} & set(args)))


def run_rank(place: Path, call: Callable[[], int]) -> int:
    """The exit code of a rank that `spawn` started."""
    code = guard(call, verbose=False)
    if code != 0:
        # Now, since the end of MPI may wait for ranks that wait for this one.
        rank = launch.detect(os.environ).rank
        spawned.record_failure(place, spawned.Failure(rank=rank, pid=os.getpid(), code=code))
    return code


def _command(args: list[str]) -> int:
    try:
        action: Action | int | None = app(args=args, prog_name="pipeinfer", standalone_mode=False)
    except _CLICK_ERROR as error:
        raise UserError(_usage_text(error)) from None
    code = action() if callable(action) else 0  # --help and --version leave nothing to do
    _flush()
    return code


def _flush() -> None:
    """Here, where a closed pipe or a full disk is still handled."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(error) from None


def _usage_text(error: Any) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "pipeinfer"
    text = " ".join(error.format_message().split()).rstrip(".")
    return f"{text[:1].lower()}{text[1:]}: see {command} --help"


def guard(call: Callable[[], int], *, verbose: bool) -> int:
    """The exit code of `call`, whatever happens in it."""
    try:
        code = call()
        if code == 0 and _mpi_running():
            _finish_mpi()
        return code
    except BaseException as error:  # noqa: BLE001 - the one place where errors end
        # Launchers send signals to the ranks of a failing job: what is said stays one line.
        interrupt.set_handlers(signal.SIG_IGN)
        interrupted = isinstance(error, KeyboardInterrupt)
        code = _end(Interrupted(signal.SIGINT) if interrupted else error, verbose)
        interrupt.set_handlers(signal.SIG_DFL)
        return code


def _end(error: BaseException, verbose: bool) -> int:
    """Says what happened in one line and gives its exit code; ends the other ranks too."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    code = exit_code_of(error)
    level = logging.WARNING if isinstance(error, Interrupted) else logging.ERROR
    LOG.log(level, "%s", _line(error), exc_info=None if level < logging.ERROR else error)
    if isinstance(error, BrokenPipeError | OutputClosedError | OutputError) or _is_full(error):
        _discard_stdout()
    if isinstance(error, BrokenPipeError | OutputClosedError):
        pass  # quietly, as SIGPIPE would
    elif _speaks_for_all(error):
        if verbose and not isinstance(error, PipeinferError | Interrupted):
            traceback.print_exception(error)
        print(f"pipeinfer: error: {_line(error)}", file=sys.stderr, flush=True)
    if _mpi_running():
        _abort(code)
    return code


def _line(error: BaseException) -> str:
    if isinstance(error, Interrupted):
        how = f": {error.resume}" if error.resume else ""
        return f"interrupted by {signal.Signals(error.signum).name}{how}"
    text = printable(" ".join(str(error).split()))
    if isinstance(error, PipeinferError):
        return text
    if _is_full(error):
        return f"cannot write: {text}: free some space"
    return f"unexpected {type(error).__name__}: {text} (-v shows where)"


def _speaks_for_all(error: BaseException) -> bool:
    """Whether this rank says what went wrong. Errors that all ranks meet are said once."""
    place = spawned.folder()
    if place is not None:
        failure = spawned.read_failure(place)
        if isinstance(error, Interrupted) and failure and failure.code != error.exit_code:
            return False  # when a rank has failed, launchers end the others with signals
        return spawned.claim_report(place)
    if _mpi_running() or launch.detect(os.environ).rank == 0:
        return True
    time.sleep(SILENT_RANK_WAIT_S)
    return False


def _mpi_running() -> bool:
    module = sys.modules.get("mpi4py.MPI")
    return module is not None and module.Is_initialized() and not module.Is_finalized()


def _is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _finish_mpi() -> None:
    from pipeinfer_cli import mpi

    mpi.finish()


def _abort(code: int) -> NoReturn:
    from pipeinfer_cli import mpi

    mpi.abort(code)


def _discard_stdout() -> None:
    """Python would write what is left at exit, and fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
