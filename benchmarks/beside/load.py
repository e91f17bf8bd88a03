"""Another process that takes a part of one core, as daemons and neighbours do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

BURST_S = 0.01
_PROGRAM = """
import sys, time
share, burst_s = map(float, sys.argv[1:])
while True:
    end = time.perf_counter() + burst_s * share
    while time.perf_counter() < end:
        pass
    time.sleep(burst_s * (1 - share))
"""


@contextmanager
def background(share: float) -> Iterator[None]:
    """Busy for this share of the time (0 to 1), in bursts of up to 10 ms; 0: no process."""
    if share == 0:
        yield
        return
    command = [sys.executable, "-c", _PROGRAM, str(share), str(BURST_S)]
    with subprocess.Popen(command) as process:
        try:
            yield
        finally:
            process.kill()
