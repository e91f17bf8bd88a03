"""MPI's start and abrupt end. The only module that imports mpi4py."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from pipeinfer_cli.engine import loaded
from pipeinfer_cli.engine.config import MpiCalls
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.launch import environment, local_rank, report, signals, supervisor
from pipeinfer_cli.launch.host import mpi_choice, numa, shared_memory
from pipeinfer_cli.launch.host.mpi_info import MpiInfo
from pipeinfer_cli.log import LOG

if TYPE_CHECKING:
    from mpi4py.MPI import Comm, Request

FINALIZE_S = 10.0  # all ranks have said before that they are at their end
ABORT_S = 3.0

# Families whose libraries hydra can serve: all descend from MPICH.
HYDRA_FAMILIES = ("mpich", "intel", "mvapich", "cray")


def start() -> Comm:
    """Starts the MPI that fits the launcher and returns the world's communicator.

    Raises UserError if the launcher belongs to another MPI, if two MPIs are in this process, or
    if the MPI cannot serve several threads.
    """
    mpi = mpi_choice.choose()
    launch_env = environment.detect(os.environ)
    _check_launcher(launch_env, mpi, os.environ)
    environment.check_host_name(mpi)
    if local_rank.folder() is None:
        n_here = environment.ranks_on_host(os.environ)
        shared_memory.prepare(mpi, n_here, os.environ, among=True)
    supervised = None
    if not launch_env.alone and local_rank.folder() is None and "mpi4py.MPI" not in sys.modules:
        supervised = supervisor.enter_launched(launch_env.rank)
    _import(mpi)
    if (place := local_rank.folder()) is not None:
        local_rank.record_shared_memory(place, os.getpid())
    if supervised is not None:
        supervised.begin(local_rank.shared_memory_of(os.getpid()))
    check_one_library()
    loaded.check(mpi.wheel_libraries)
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    if launch_env.size is not None and comm.size != launch_env.size:
        # Each copy is rank 0 of a world of its own: by the launcher's count only one says so.
        MPI.Finalize()
        raise _mixture(launch_env, mpi)
    if MPI.Query_thread() != MPI.THREAD_MULTIPLE:
        raise UserError(
            f"{mpi} ({mpi.path}) does not give THREAD_MULTIPLE, which pipeinfer needs: "
            f"use an MPI built with thread support, for example {mpi_choice.VARIABLE}=mpich"
        )
    return comm


def _import(mpi: MpiInfo) -> None:
    """Has mpi4py load this MPI and start it."""
    # Variables of the user's own could name another MPI, or have it not started. With the library's
    # path alone mpi4py loads it and finds out the ABI itself (told the ABI, it would not load it).
    for name in [name for name in os.environ if name.startswith("MPI4PY_")]:
        del os.environ[name]
    if mpi.kind != "mpi4py":
        os.environ["MPI4PY_LIBMPI"] = mpi.path
    try:
        loaded.preload_mpi(mpi.wheel_libraries)
        if mpi.kind == "system" and mpi.abi == "mpich":
            loaded.name_mpich(mpi.path)
        with signals.default_signal_handlers():  # an absent rank is waited for without end
            import mpi4py.MPI  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        raise UserError(
            f"cannot start MPI from {mpi.path}: {_one_line(error)}: {loaded.remedy(os.environ)}"
        ) from None


def calls(comm: Comm) -> MpiCalls:
    """How libpipeinfer is to call this MPI, on communicators of its own. All ranks call it.

    mpi4py was compiled with this MPI's header, and knows its values.
    """
    from mpi4py import MPI

    handle_bytes = MPI._sizeof(MPI.Comm)  # as those of MPI.Request and MPI.Datatype
    library = next(iter(loaded.mpi_libraries(loaded.mapped_files(os.getpid()))), MPI.__file__)

    def handle(of: Comm | MPI.Datatype | MPI.Request) -> int:
        return of.handle % (1 << 8 * handle_bytes)  # an int may be negative

    return MpiCalls(
        library=library,
        handle_bytes=handle_bytes,
        status_bytes=MPI._sizeof(MPI.Status),
        any_source=MPI.ANY_SOURCE,
        byte_type=handle(MPI.BYTE),
        null_request=handle(MPI.REQUEST_NULL),
        comm_data=handle(comm.Dup()),
        comm_control=handle(comm.Dup()),
    )


def resources_on_this_host(
    comm: Comm, n_threads: int | None, *, isolate: bool = False
) -> tuple[int, list[environment.RankResources]]:
    """What each of the job's ranks on this host has, and which of them we are. All ranks call it.

    `n_threads`: that this rank was asked for; None: a default. `isolate`: it stays in one NUMA node
    from now on, with all threads that this one starts.
    """
    from mpi4py import MPI

    local = comm.Split_type(MPI.COMM_TYPE_SHARED)
    masks = local.allgather(environment.affinity())
    if isolate:
        masks = environment.isolate(local.rank, masks, local.allgather(numa.current_cpu()))
    ranks = local.allgather(environment.RankResources.take(n_threads, masks))
    index = local.rank
    local.Free()
    return index, ranks


class HeartbeatChannel:
    """Small messages between the head and the others, on a communicator of their own.

    All ranks make one, at the same time. No call of it blocks.
    """

    def __init__(self, comm: Comm, n_bytes: int) -> None:
        self._comm = comm.Dup()
        others = range(1, comm.size) if comm.rank == 0 else [0]
        self._buffers = {rank: bytearray(n_bytes) for rank in others}
        self._receives = {rank: self._receive(rank) for rank in others}
        self._sends: dict[int, list[tuple[Request, bytes]]] = {rank: [] for rank in others}

    def send(self, rank: int, data: bytes, *, must: bool = False) -> None:
        """Sends it, unless the one before is still under way (and it need not be)."""
        under_way = [each for each in self._sends[rank] if not each[0].Test()]
        if must or not under_way:
            under_way.append((self._comm.Isend(data, rank), data))  # MPI reads from `data`
        self._sends[rank] = under_way

    def receive(self) -> list[tuple[int, bytes]]:
        """What has come since: the sender's rank and the message, in order."""
        found = []
        for rank, buffer in self._buffers.items():
            while self._receives[rank].Test():
                found.append((rank, bytes(buffer)))
                self._receives[rank] = self._receive(rank)
        return found

    def close(self) -> None:
        """Nothing more will be sent or received. What is still under way stays MPI's."""
        _LEFT.append(self)  # the memory of what may be under way, also if MPI raises
        for request in self._receives.values():
            request.Cancel()
            request.Wait()

    def _receive(self, rank: int) -> Request:
        return self._comm.Irecv(self._buffers[rank], rank)


_LEFT: list[HeartbeatChannel] = []


def finish() -> None:
    """Ends MPI in good order, if it was started; this process may do no more with it.

    RunError does not help where other ranks do not end: then this process ends here.
    """
    if not environment.is_mpi_running():
        return
    others = "another rank has not ended, though the work is done"
    with within(FINALIZE_S, end_all, others):
        sys.modules["mpi4py.MPI"].Finalize()


def end_all(message: str) -> NoReturn:
    """Says on stderr what is wrong and ends all ranks, whatever the main thread is doing."""
    report.say(message)
    LOG.error("%s", message)
    if not environment.is_mpi_running():
        os._exit(1)
    _abort(1)


def abort(code: int) -> NoReturn:
    """Ends the whole job with this exit code, once one rank has failed and reported why."""
    sys.stdout.flush()
    sys.stderr.flush()
    _abort(code)


def _abort(code: int) -> NoReturn:
    from mpi4py import MPI

    place = local_rank.folder()
    try:
        if place is not None:
            report.claim(place)
            report.record_own_failure(place, code)
        # Where MPI cannot even abort, the launcher and the other ranks must notice our end.
        with within(ABORT_S, os._exit, code):
            if place is None:  # nobody else will
                for path in local_rank.shared_memory_of(os.getpid()):
                    Path(path).unlink(missing_ok=True)
            # What went wrong has been said; MPI's own words about the abort would bury it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            # srun kills the step when one of its ranks aborts, and returns 137. Of a job that can
            # be resumed it must return our code: the others have the same signal, or miss us, and
            # end, too.
            if code != os.EX_TEMPFAIL or not environment.is_srun_step(os.environ):
                MPI.COMM_WORLD.Abort(code)
    finally:  # with no memory left anything can raise, and a traceback would bury it, too
        os._exit(code)


@contextmanager
def within(limit_s: float, act: Callable[..., object], *args: object) -> Iterator[None]:
    """Has another thread call `act` if the block takes longer, also while it is in MPI.

    Without the memory for a thread, SIGALRM ends the process then.
    """
    timer = threading.Timer(limit_s, act, args=args)
    timer.daemon = True
    try:
        timer.start()
    except RuntimeError:  # "can't start new thread"
        signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        timer.cancel()
        signal.setitimer(signal.ITIMER_REAL, 0)


def check_one_library(mapped: Iterable[str] | None = None) -> None:
    """UserError if more than one libmpi is among the files mapped into this process."""
    found = loaded.mpi_libraries(loaded.mapped_files(os.getpid()) if mapped is None else mapped)
    if len(found) > 1:
        raise UserError(
            f"two MPI libraries are in one process ({' and '.join(found)}): "
            f"empty LD_PRELOAD and LD_LIBRARY_PATH, or set {mpi_choice.VARIABLE} to one of them"
        )


def _check_launcher(
    launch_env: environment.LaunchEnvironment, mpi: MpiInfo, env: Mapping[str, str]
) -> None:
    """UserError if it is known that this MPI would not see the launcher's other processes.

    Some MPIs would end the process with a page of text, others make it a world of its own.
    """
    ours = "mpich" if mpi.family in HYDRA_FAMILIES else mpi.family
    is_foreign = launch_env.family is not None and launch_env.family != ours
    has_pmix, has_pmi = "PMIX_RANK" in env, "PMI_RANK" in env
    wants_pmix = ours == "openmpi" and not mpi.version.startswith(("1.", "2.", "3.", "4."))
    wants_pmi = ours == "mpich" and mpi.kind == "wheel"
    is_deaf = (wants_pmix and not has_pmix) or (wants_pmi and has_pmix and not has_pmi)
    if is_foreign or (is_deaf and not launch_env.alone):
        raise _mixture(launch_env, mpi)


def _mixture(launch_env: environment.LaunchEnvironment, mpi: MpiInfo) -> UserError:
    way = f"srun --mpi={mpi.srun_type}, or " if "SLURM_STEP_ID" in os.environ else ""
    mpiexec = mpi.mpiexec or "its own launcher"
    return UserError(
        f"started as one of {launch_env.size or 'several'} tasks by {launch_env.launcher}, but "
        f"pipeinfer uses {mpi} ({mpi.path}), which does not see them: "
        f"use {way}{mpiexec}, or name the launcher's libmpi "
        f"({mpi_choice.VARIABLE}=/opt/mpi/lib/libmpi.so)"
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
