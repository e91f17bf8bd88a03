"""The command line: its commands, and errors into one line and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

from pipeinfer_cli import console, streams
from pipeinfer_cli.errors import (
    RESUME,
    Interrupted,
    OutputClosedError,
    OutputError,
    UserError,
    exit_code_of,
    is_disk_full,
)
from pipeinfer_cli.launch import environment, local_rank, nested, report, signals


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; every error becomes a line and an exit code here, nowhere else."""
    args = list(sys.argv[1:] if argv is None else argv)
    streams.open_closed()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a path goes out as it came in
    place = local_rank.folder()
    if place is not None:
        from pipeinfer_cli.commands.start import run_spawned

        return run_rank(place, lambda: run_spawned(place))

    def command() -> int:
        # Before all else: what is imported from here on takes seconds on a busy machine.
        with signals.resumable(RESUME if asks_for_file(args) else ""):
            signals.raise_on_signals()
            streams.check_stdout()
            if note := nested.leave_job(os.environ):
                console.note(note)
            return _command(args)

    return guard(command, verbose=bool({"-v", "--verbose"} & set(args)))


def run_rank(place: Path, call: Callable[[], int]) -> int:
    """The exit code of a rank that `spawn` started."""
    code = guard(call, verbose=False)
    if code != 0:
        # Now, since the end of MPI may wait for ranks that wait for this one.
        report.record_own_failure(place, code)
    return code


def asks_for_file(args: list[str]) -> bool:
    """Whether a command line, not parsed yet, has a batch write a file: then nothing is lost."""
    if args[:1] != ["generate"]:
        return False  # bench has options of these names, too
    names = {arg.partition("=")[0] for arg in args}
    is_stdout = ("--output", "-") in zip(args, args[1:], strict=False) or "--output=-" in args
    return {"--prompts", "--output"} <= names and not is_stdout


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
        if code == 0 and environment.is_mpi_running():
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
    """Has it reported and gives its exit code; ends the other ranks too."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, BrokenPipeError | OutputClosedError | OutputError) or is_disk_full(error):
        streams.discard(sys.stdout.fileno())
    report.speak(error, verbose=verbose)
    code = exit_code_of(error)
    if environment.is_mpi_running():
        _abort(code)
    return code


def _finish_mpi() -> None:
    from pipeinfer_cli.launch import mpi

    mpi.finish()


def _abort(code: int) -> NoReturn:
    from pipeinfer_cli.launch import mpi

    mpi.abort(code)
