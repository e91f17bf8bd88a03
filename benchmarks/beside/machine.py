"""What the machine did besides the measured processes: from /proc."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
IDLE, IOWAIT = 3, 4  # columns of /proc/stat's first line
N_TIMES = 8  # user to steal: guest time is in user already


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """CPU time since some moment: of the whole machine, and of this process and what it reaped."""

    wall_s: float
    machine_s: float
    own_s: float

    @staticmethod
    def now() -> Usage:
        """The counters as they are."""
        columns = Path("/proc/stat").read_text().splitlines()[0].split()[1 : 1 + N_TIMES]
        ticks = [int(value) for value in columns]
        times = os.times()
        return Usage(
            wall_s=time.monotonic(),
            machine_s=(sum(ticks) - ticks[IDLE] - ticks[IOWAIT]) / TICKS_PER_S,
            own_s=times.user + times.system + times.children_user + times.children_system,
        )

    def others_share(self, end: Usage) -> float:
        """CPUs that others (and the host, as stolen time) kept busy since: 1.0 is one core."""
        wall_s = end.wall_s - self.wall_s
        others_s = (end.machine_s - self.machine_s) - (end.own_s - self.own_s)
        return max(0.0, others_s) / wall_s if wall_s else 0.0


def describe() -> str:
    """Processor and number of cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    amx = ", AMX" if any("amx_int8" in line for line in lines) else ""
    return f"{names[0] if names else 'unknown processor'}, {os.cpu_count()} CPUs{amx}"


def load_average() -> float:
    """Of the last minute."""
    return os.getloadavg()[0]


def descendants(root: int) -> list[int]:
    """Process ids of the process and of all below it."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        parents[int(path.parent.name)] = int(after_name[1])
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


def memory_mb(pids: list[int]) -> tuple[float, float]:
    """Sums of RSS and PSS over the processes that still run, in MB."""
    rss_kb = pss_kb = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        fields = {line.split(":")[0]: line.split()[1] for line in lines[1:]}
        rss_kb += int(fields["Rss"])
        pss_kb += int(fields["Pss"])
    return rss_kb / 1024, pss_kb / 1024
