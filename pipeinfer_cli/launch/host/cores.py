"""Which CPUs are one physical core, in which NUMA node, and how ranks of a host divide them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, chain, pairwise
from pathlib import Path

SYSTEM_DIR = Path("/sys/devices/system")

# CPUs of one physical core, in rising order: hyperthreads.
Core = tuple[int, ...]


def parse_cpulist(text: str) -> frozenset[int]:
    """The kernel's `0-3,8` as a set."""
    cpus: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return frozenset(cpus)


def cores_of(cpus: Iterable[int], system_dir: Path = SYSTEM_DIR) -> tuple[Core, ...]:
    """These CPUs by core; node after node, and by their numbers there.

    Where the kernel does not tell, each is a core of its own, and all are in one node.
    """
    left = set(cpus)
    lists = system_dir.glob("node/node[0-9]*/cpulist")
    node_of = {
        cpu: int(path.parent.name.removeprefix("node")) for path in lists for cpu in _read(path)
    }
    cores = []
    for cpu in sorted(left):
        if cpu in left:
            siblings = _read(system_dir / f"cpu/cpu{cpu}/topology/thread_siblings_list")
            core = tuple(sorted((siblings & left) | {cpu}))
            left.difference_update(core)
            cores.append(core)
    return tuple(sorted(cores, key=lambda core: (node_of.get(core[0], 0), core)))


def _read(path: Path) -> frozenset[int]:
    try:
        return parse_cpulist(path.read_text())
    except (OSError, ValueError):
        return frozenset()


def divide(cores: Sequence[Core], n_threads: Sequence[int]) -> list[tuple[Core, ...]] | None:
    """Parts that follow one another, in proportion to their threads, with a CPU for each thread.

    Cores are whole if there are as many as threads. None if even the CPUs are fewer.
    """
    n_all = sum(n_threads)
    if n_all > len(cores):
        cores = [(cpu,) for core in cores for cpu in core]
    if n_all > len(cores):
        return None
    ends = [len(cores) * n // n_all for n in accumulate(n_threads, initial=0)]
    return [tuple(cores[first:last]) for first, last in pairwise(ends)]


def cpus_for(cores: Sequence[Core], n_threads: int) -> tuple[int, ...]:
    """The CPUs that these threads are to run on: one of each core, if that is enough."""
    firsts = [core[0] for core in cores]
    return tuple(sorted(firsts if n_threads <= len(firsts) else chain.from_iterable(cores)))
