"""Holds the ranks of a job at a phase until a fault has come: for tests/e2e/test_fault_matrix.py.

With this folder in PYTHONPATH, every Python process imports it at its start. FAULT is a JSON
object: `place` (a folder), `phase`, `rank` (whom the fault will meet), `fault`. A rank that has
come to the phase says so by a file `<phase>-<rank>`, and goes on when there is a file `go`.
"""

import json
import os
import resource
import time
from pathlib import Path

HOLD_S = 60.0
ROOM_BYTES = 2 << 20  # left to a rank that is to run out of memory


def my_rank():
    for name in ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID"):
        if os.environ.get(name, "").isdecimal():
            return int(os.environ[name])
    return None


def hold(case):
    place = Path(case["place"])
    (place / f"{case['phase']}-{my_rank()}").write_text(str(os.getpid()))
    give_up_s = time.monotonic() + HOLD_S
    while not (place / "go").exists() and time.monotonic() < give_up_s:
        time.sleep(0.01)


def starve():
    """As if the node had hardly any memory left."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def before(owner, name, act):
    """Has `act` called before each call of a method."""
    original = getattr(owner, name)

    def patched(self, *args, **kwargs):
        act()
        return original(self, *args, **kwargs)

    setattr(owner, name, patched)


def install(case):
    from pipeinfer_cli.engine.engine import Engine

    is_target = my_rank() == case["rank"]
    if case["fault"] == "oom":
        if is_target:
            before(Engine, "__init__", starve)
    elif case["phase"] == "load" and is_target:
        before(Engine, "__init__", lambda: hold(case))
    elif case["phase"] == "prefill" and my_rank() == 0:
        submitted = []

        def at_the_second_run():
            submitted.append(None)
            if len(submitted) == 2:
                hold(case)

        before(Engine, "submit", at_the_second_run)
    elif case["phase"] == "shutdown" and is_target:
        before(Engine, "close", lambda: hold(case))


if "FAULT" in os.environ and my_rank() is not None:
    install(json.loads(os.environ["FAULT"]))
