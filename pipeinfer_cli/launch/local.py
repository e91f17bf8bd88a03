"""Starts ranks on this machine and stays their parent: output, signals, end, and no orphans."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any

from pipeinfer_cli.errors import Interrupted, OutputClosedError, OutputError, RunError
from pipeinfer_cli.files import make_temporary_folder
from pipeinfer_cli.launch import local_input, local_output, local_rank, report
from pipeinfer_cli.launch.environment import Launcher
from pipeinfer_cli.launch.local_shutdown import JobShutdown, Phase, kill_stragglers

POLL_S = 0.2  # how soon a failure is noticed that the launcher does not report
DRAIN_S = 1.0  # how long the rest of the output may take after an abnormal end
CAPTURE_BYTES = 65536  # of the launcher's own words, for a diagnosis


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to start."""

    launcher: Launcher
    ranks: int
    program: Sequence[str]  # the command line of every rank
    files: Mapping[str, bytes] = field(default_factory=dict)  # by name, for the private folder
    verbose: bool = False  # show what the launcher said if the job fails
    read_line: local_input.ReadLine | None = None  # to talk with rank 0: a line when it asks
    forwards_stdin: bool = False  # all of it goes to rank 0
    # More time for rank 0 after a signal, which may end the job well then; None: it is interrupted.
    grace_s: float | None = None
    start_s: float = math.inf  # what the ranks may take until MPI has started on all of them


def spawn(job: Job) -> int:
    """Runs the job to its end and returns its exit code; no process of it is left then.

    Text of rank 0 goes to our stdout, stderr of all ranks to our stderr, as they come. A signal is
    handed to rank 0 if that listens, which then ends the job and says so. Raises RunError if a rank
    was killed or the launcher failed, UserError if there is no place for the job's files,
    Interrupted if we have ended the job because of a signal, OutputClosedError if the reader of our
    stdout went away, OutputError if it cannot be written.
    """
    place = make_temporary_folder("pipeinfer-")
    try:
        for name, data in job.files.items():
            (place / name).write_bytes(data)
        with _Signals() as signals, local_output.OutputForwarders(signals.fd) as forwarders:
            return _run(job, place, signals, forwarders)
    finally:
        kill_stragglers(place)
        local_rank.remove_shared_memory(place)
        shutil.rmtree(place, ignore_errors=True)


def _run(
    job: Job, place: Path, signals: _Signals, forwarders: local_output.OutputForwarders
) -> int:
    out = forwarders.add(local_rank.make_fifo(place / local_rank.STDOUT_FIFO), 1)
    forwarders.add(local_rank.make_fifo(place / local_rank.STDERR_FIFO), 2)
    stdin_forwarder = (
        local_input.StdinForwarder(place, forwarders, job.read_line) if job.read_line else None
    )
    if job.forwards_stdin:
        local_input.forward_stdin(place)
    with _start(job, place) as process:
        try:
            noise = [forwarders.capture(pipe.fileno(), CAPTURE_BYTES) for pipe in _pipes(process)]
            shutdown = JobShutdown(
                process, place, signals.received, out, grace_s=job.grace_s or 0.0
            )
            ended = _wait(job, process, place, forwarders, shutdown, stdin_forwarder)
        finally:
            kill_stragglers(place)
        n_signals = len(signals.received)
        is_abnormal = n_signals or not ended or process.returncode
        give_up_s = time.monotonic() + (DRAIN_S if is_abnormal else math.inf)
        forwarders.drain(lambda: len(signals.received) > n_signals or time.monotonic() > give_up_s)
    by_itself = ended and shutdown.phase is Phase.HEAD_ENDS and job.grace_s is not None
    is_well = by_itself and process.returncode == 0 and not report.has_failed(place)
    if signals.received and not is_well and not report.has_ended_job(place):
        raise Interrupted(signals.received[0])
    if out.error is not None:
        raise OutputError(out.error)
    if out.closed:
        raise OutputClosedError("the reader of stdout went away")
    launcher_said = [bytes(each.kept).decode(errors="replace") for each in noise]
    return _outcome(job, place, process.returncode, launcher_said)


def _wait(
    job: Job,
    process: subprocess.Popen[bytes],
    place: Path,
    forwarders: local_output.OutputForwarders,
    shutdown: JobShutdown,
    stdin_forwarder: local_input.StdinForwarder | None,
) -> bool:
    """Forwards output until the launcher has ended (True) or is not waited for any more."""
    up_s = time.monotonic() + job.start_s
    while process.poll() is None:
        forwarders.step(POLL_S)
        if stdin_forwarder is not None and shutdown.phase is not Phase.ALL_END:
            stdin_forwarder.step(
                shutdown.received,
                lambda: process.poll() is not None or report.has_failed(place),
            )
        now_s = time.monotonic()
        if now_s > up_s:
            _check_up(job, place)
            up_s = math.inf
        shutdown.step(now_s)
        if shutdown.phase is Phase.GIVEN_UP:
            return False
    return True


def _check_up(job: Job, place: Path) -> None:
    if late := local_rank.not_up(place, job.ranks):
        raise RunError(f"{' and '.join(late)} did not start within {job.start_s:.0f} s (--timeout)")


def _start(job: Job, place: Path) -> subprocess.Popen[bytes]:
    command = job.launcher.command(job.ranks, job.program)
    marker = {local_rank.SPAWN_DIR: str(place)}
    try:
        return subprocess.Popen(
            command,
            env={**os.environ, **job.launcher.environment(), **marker},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # the terminal's Ctrl-C comes to us alone; we pass it on
        )
    except OSError as error:
        raise RunError(f"cannot start {command[0]}: {error.strerror}") from None


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    assert process.stdout is not None and process.stderr is not None
    return process.stdout, process.stderr


def _outcome(job: Job, place: Path, returncode: int, launcher_said: list[str]) -> int:
    """The job's exit code, or RunError saying what no rank has said."""
    failure = report.read_failure(place)
    if failure is None and returncode == 0:
        return 0
    said = " | ".join(text.strip() for text in launcher_said if text.strip())
    detail = f"; the launcher reported: {said}" if job.verbose and said else ""
    if failure is None:
        last = _last_line(launcher_said)
        raise RunError(
            f"the ranks could not be run: {job.launcher.mpiexec} ended with exit code "
            f"{returncode}{': ' + last if last else ''}{detail}"
        )
    who = f"rank {failure.rank} (pid {failure.pid})"
    if failure.code < 0:
        name = signal.Signals(-failure.code).name
        raise RunError(
            f"{who} was killed by signal {-failure.code} ({name}); all ranks were ended{detail}"
        )
    if not report.has_reported(place):
        raise RunError(f"{who} ended with exit code {failure.code}; all ranks were ended{detail}")
    return failure.code


def _last_line(texts: list[str]) -> str:
    """What the launcher said last, on stderr if it said something there."""
    lines = [line.strip() for text in texts for line in text.splitlines() if line.strip(" =-\t")]
    return lines[-1] if lines else ""


class _Signals:
    """Collects signals that ask us to end; they and SIGCHLD wake the forwarders."""

    def __init__(self) -> None:
        self.received: list[int] = []  # the first, and those that are not its echo
        self._received_s = 0.0
        self.fd, self._wake_fd = os.pipe()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        for fd in (self.fd, self._wake_fd):
            os.set_blocking(fd, False)
        self._wake_before = signal.set_wakeup_fd(self._wake_fd, warn_on_full_buffer=False)
        for signum in (*local_rank.ENDING_SIGNALS, signal.SIGCHLD):
            if signum == signal.SIGCHLD or signal.getsignal(signum) is not signal.SIG_IGN:  # nohup
                self._before[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            # None: a library in LD_PRELOAD has set it, and Python cannot set it again
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._wake_before)
        os.close(self.fd)
        os.close(self._wake_fd)

    def _handle(self, signum: int, _frame: FrameType | None) -> None:
        now_s = time.monotonic()
        if signum == signal.SIGCHLD or now_s < self._received_s + local_rank.REPEAT_S:
            return
        self.received.append(signum)
        self._received_s = now_s
