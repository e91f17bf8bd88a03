"""A rank without model and MPI, for tests of spawning: behaves as its arguments say.

Arguments are `<rank>:<act>` (or `*:<act>` for all ranks); acts run in order.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from pipeinfer_cli.cli import main
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.launch import environment, local_rank, signals, supervisor


def perform(act: str, rank: int) -> int:
    name, _, value = act.partition("=")
    if name == "print":
        sys.stdout.write(value.replace("\\n", "\n"))
        sys.stdout.flush()
    elif name == "flood":
        block = b"x" * 65535 + b"\n"
        for _ in range(int(value)):
            sys.stdout.buffer.write(block)
        sys.stdout.flush()
    elif name == "err":
        print(value, file=sys.stderr, flush=True)
    elif name == "sleep":
        time.sleep(float(value))
    elif name == "kill":
        os.kill(os.getpid(), int(value))
    elif name == "exit":
        return int(value)
    elif name == "error":
        raise UserError(value)
    elif name == "stubborn":
        for signum in local_rank.ENDING_SIGNALS:
            signal.signal(signum, signal.SIG_IGN)
    elif name == "daemon":  # a grandchild in a session of its own that outlives everything
        subprocess.Popen(["sleep", "300"], start_new_session=True)
    elif name == "ready":
        Path(value, f"ready-{rank}").touch()
    elif name == "obey":  # as the head does: ends between two tokens, and what it has is kept
        with signals.deferred_signals() as stop_request:
            Path(value, f"ready-{rank}").touch()
            while not stop_request():
                time.sleep(0.01)
            print("kept", flush=True)
            stop_request.check(resume="go on")
    elif name == "mpi":
        os.environ["MPI4PY_LIBMPI"] = value
        from mpi4py import MPI

        MPI.COMM_WORLD.barrier()
        place = local_rank.folder()
        assert place is not None
        local_rank.record_shared_memory(place, os.getpid())
    elif name == "recv":
        from mpi4py import MPI

        MPI.COMM_WORLD.recv()
    elif name == "affinity":
        print(len(os.sched_getaffinity(0)))
    else:
        raise ValueError(act)
    return 0


def run(place: Path) -> int:
    rank = environment.detect(os.environ).rank
    supervisor.enter_local(place, rank)
    for argument in sys.argv[1:]:
        who, _, act = argument.partition(":")
        if who in ("*", str(rank)) and (code := perform(act, rank)) != 0:
            return code
    return 0


if __name__ == "__main__":
    folder = local_rank.folder()
    assert folder is not None
    sys.exit(main.run_rank(folder, lambda: run(folder)))
