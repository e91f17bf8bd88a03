"""A rank that `spawn` started on this machine: its side of the private folder.

The parent holds the reading ends of two FIFOs in the folder. Rank 0 writes its stdout, and every
rank its stderr, into them, past the launcher, so that the launcher's banners never mix with them.
Their other use: when the parent dies, by whatever cause, the kernel says so on our end, and the
rank ends itself.
"""

from __future__ import annotations

import errno
import os
import re
import select
import shutil
import signal
import threading
from pathlib import Path

from pipeinfer_cli.engine.loaded import mapped_files
from pipeinfer_cli.errors import UserError

SPAWN_DIR = "PIPEINFER_SPAWN_DIR"
STDOUT_FIFO = "stdout"
STDERR_FIFO = "stderr"
STDIN_FIFO = "stdin"  # these two only if the parent has something for rank 0: see local_input
ASK_FIFO = "ask"
ANSWER_SIGNAL = signal.SIGUSR2  # to rank 0, from its parent: end the answer that is under way
# Shared memory of MPICH and of two generations of Open MPI: killed ranks leave it behind.
MPI_SEGMENT = re.compile(r"/dev/shm/(mpich_shm_|sm_segment\.|vader_segment\.)")
LISTENING_FILE = "listening"
# SIGUSR1 is a batch system's word before it takes the nodes away (sbatch --signal=USR1@60).
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
# A signal that comes again within this time is the same one, on another way.
REPEAT_S = 0.2


def folder() -> Path | None:
    """The private folder if `spawn` started this process, else None."""
    path = os.environ.get(SPAWN_DIR)
    return Path(path) if path else None


def connect(place: Path, rank: int) -> None:
    """Has the output of this process, and of those that it starts, go to the parent."""
    adopt(place / STDERR_FIFO, 2)
    if rank == 0:
        adopt(place / STDOUT_FIFO, 1)
        if (place / STDIN_FIFO).exists():
            os.dup2(os.open(place / STDIN_FIFO, os.O_RDONLY), 0)


def begin(place: Path, rank: int) -> None:
    """Makes this process the rank: it ends if the parent is gone."""
    for signum in ENDING_SIGNALS:
        signal.signal(signum, signal.SIG_DFL)  # the parent speaks for all ranks
    (place / f"rank-{rank}.pid").write_text(str(os.getpid()))
    threading.Thread(target=_watch_parent, daemon=True).start()


def make_fifo(path: Path) -> int:
    """A new FIFO, for the parent: a file descriptor that reads, or writes, without blocking.

    UserError where the file system has none.
    """
    try:
        os.mkfifo(path, 0o600)
    except OSError as error:
        raise UserError(
            f"cannot make a FIFO in {str(path.parent)!r}: {error.strerror}: set TMPDIR to a folder "
            "on a local disk"
        ) from None
    # This process holds the other end, too, so that it does not end before we close that.
    return os.open(path, os.O_RDWR | os.O_NONBLOCK)


def note_up(rank: int) -> None:
    """Tells the parent, if there is one, that MPI has started: ranks see after each other now."""
    if (place := folder()) is not None:
        (place / f"rank-{rank}.up").touch()


def not_up(place: Path, ranks: int) -> list[str]:
    """For the parent: the ranks that have not said so, in words."""
    late = [rank for rank in range(ranks) if not (place / f"rank-{rank}.up").exists()]
    pids = {rank: place / f"rank-{rank}.pid" for rank in late}
    return [
        f"rank {rank}" + (f" (pid {pid.read_text()})" if pid.exists() else "")
        for rank, pid in pids.items()
    ]


def adopt(fifo: Path, fd: int) -> None:
    """Makes the FIFO this process's file descriptor `fd`; ends it if the parent is gone."""
    try:
        opened = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno not in (errno.ENXIO, errno.ENOENT):
            raise
        if error.errno == errno.ENXIO:  # the folder is there, and its owner is not
            shutil.rmtree(fifo.parent, ignore_errors=True)
        os._exit(1)
    os.set_blocking(opened, True)
    os.dup2(opened, fd)
    os.close(opened)


def announce_listening(place: Path) -> None:
    """On rank 0: from now on a signal ends the job between two tokens."""
    (place / LISTENING_FILE).touch()


def tell_head(place: Path, signum: int) -> bool:
    """The parent's part: hands a signal to rank 0, if that listens."""
    if not (place / LISTENING_FILE).exists():
        return False
    kill(int((place / "rank-0.pid").read_text()), signum)
    return True


def record_shared_memory(place: Path, pid: int) -> None:
    """Notes the segments that MPI has made for a rank: it leaves them behind if it is killed."""
    lines = shared_memory_of(pid)
    with (place / f"shm-{pid}").open("ab") as note:  # keeps what was noted before
        note.writelines(os.fsencode(f"{line}\n") for line in lines)


def shared_memory_of(pid: int) -> list[str]:
    """The segments of MPI that a process has mapped."""
    paths = {path for path in mapped_files(pid) if MPI_SEGMENT.match(path)}
    # Those that are deleted already (the kernel says so after the name) are nobody's concern.
    return sorted(path for path in paths if not path.endswith(" (deleted)"))


def remove_shared_memory(place: Path) -> None:
    """Removes the segments that this job's own ranks have noted, and no others."""
    for note in place.glob("shm-*"):
        for path in filter(None, os.fsdecode(note.read_bytes()).split("\n")):
            Path(path).unlink(missing_ok=True)


def kill(pid: int, signum: int) -> None:
    """Sends a signal to a process, unless that has ended."""
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        pass


def _watch_parent() -> None:
    try:
        parent_is_gone(wait=True)
        for path in shared_memory_of(os.getpid()):  # nobody is left who would
            Path(path).unlink(missing_ok=True)
    finally:  # a rank that nobody watches would stay for ever
        os.kill(os.getpid(), signal.SIGKILL)


def parent_is_gone(*, wait: bool) -> bool:
    """Whether nobody reads our stderr any more; with `wait` it returns only then."""
    poller = select.poll()
    poller.register(2, 0)  # errors are reported without being asked for
    return bool(poller.poll(None if wait else 0))
