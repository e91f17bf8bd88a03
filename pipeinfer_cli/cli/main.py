"""The command line: its commands, and errors into one line and an exit code."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

from pipeinfer_cli.console import printable
from pipeinfer_cli.errors import (
    Interrupted,
    OutputClosedError,
    OutputError,
    PipeinferError,
    UserError,
    exit_code_of,
)
from pipeinfer_cli.launch import environment, local_rank, signals
from pipeinfer_cli.log import LOG

# Under a launcher the first rank that ends takes the others down; rank 0 speaks for all.
SILENT_RANK_WAIT_S = 1.0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; every error becomes a line and an exit code here, nowhere else."""
    args = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a path goes out as it came in
    place = local_rank.folder()
    if place is not None:
        from pipeinfer_cli.commands.start import run_spawned

        return run_rank(place, lambda: run_spawned(place))
    signals.raise_on_signals()

    def command() -> int:
        with signals.resumable(_resume(args)):
            return _command(args)

    return guard(command, verbose=bool({"-v", "--verbose"} & set(args)))


def run_rank(place: Path, call: Callable[[], int]) -> int:
    """The exit code of a rank that `spawn` started."""
    code = guard(call, verbose=False)
    if code != 0:
        # Now, since the end of MPI may wait for ranks that wait for this one.
        rank = environment.detect(os.environ).rank
        local_rank.record_failure(place, local_rank.Failure(rank=rank, pid=os.getpid(), code=code))
    return code


def _resume(args: list[str]) -> str:
    """How the user can go on with an interrupted command; empty if nothing of it is kept."""
    if args[:1] != ["generate"]:
        return ""
    from pipeinfer_cli.cli.batch_options import asks_for_file
    from pipeinfer_cli.commands.batch.config import RESUME

    return RESUME if asks_for_file(args) else ""


def _command(args: list[str]) -> int:
    from pipeinfer_cli.cli import application  # not on the ranks that `spawn` starts

    try:
        action = application.run(args)
    except application.CLICK_ERROR as error:
        raise UserError(_usage_text(error)) from None
    code = action() if action else 0
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
        signals.set_handlers(signal.SIG_IGN)
        interrupted = isinstance(error, KeyboardInterrupt)
        code = _end(Interrupted(signal.SIGINT) if interrupted else error, verbose)
        signals.set_handlers(signal.SIG_DFL)
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
    place = local_rank.folder()
    if place is not None:
        failure = local_rank.read_failure(place)
        if isinstance(error, Interrupted) and failure and failure.code != error.exit_code:
            return False  # when a rank has failed, launchers end the others with signals
        return local_rank.claim_report(place)
    if _mpi_running() or environment.detect(os.environ).rank == 0:
        return True
    time.sleep(SILENT_RANK_WAIT_S)
    return False


def _mpi_running() -> bool:
    module = sys.modules.get("mpi4py.MPI")
    return module is not None and module.Is_initialized() and not module.Is_finalized()


def _is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _finish_mpi() -> None:
    from pipeinfer_cli.launch import mpi

    mpi.finish()


def _abort(code: int) -> NoReturn:
    from pipeinfer_cli.launch import mpi

    mpi.abort(code)


def _discard_stdout() -> None:
    """Python would write what is left at exit, and fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
