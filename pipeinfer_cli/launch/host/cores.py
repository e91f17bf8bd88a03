"""Which CPUs are one physical core, in which NUMA node, and how ranks of a host divide them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Cores:
    """How the kernel describes the CPUs of this host."""

    siblings: Mapping[int, frozenset[int]]  # by CPU: those of its core; none: it is a core
    node: Mapping[int, int]  # by CPU: its NUMA node; none: node 0

    @classmethod
    def read(cls, system_dir: Path = SYSTEM_DIR) -> Cores:
        """What cannot be read is left out."""
        lists = system_dir.glob("cpu/cpu[0-9]*/topology/thread_siblings_list")
        siblings = {int(path.parts[-3].removeprefix("cpu")): _read(path) for path in lists}
        lists = system_dir.glob("node/node[0-9]*/cpulist")
        nodes = {int(path.parts[-2].removeprefix("node")): _read(path) for path in lists}
        return cls(
            siblings=siblings, node={cpu: node for node, cpus in nodes.items() for cpu in cpus}
        )

    def of(self, cpus: Iterable[int]) -> tuple[Core, ...]:
        """These CPUs by core; node after node, and by their numbers there."""
        left, cores = set(cpus), []
        for cpu in sorted(left):
            if cpu in left:
                core = tuple(sorted({cpu, *(self.siblings.get(cpu, frozenset()) & left)}))
                left.difference_update(core)
                cores.append(core)
        return tuple(sorted(cores, key=lambda core: (self.node_of(core[0]), core)))

    def have_own_nodes(self, parts: Iterable[Sequence[Core]]) -> bool:
        """Whether no two of these parts have CPUs of the same NUMA node."""
        nodes = [self.nodes_of(core[0] for core in part) for part in parts]
        return sum(map(len, nodes)) == len(set().union(*nodes))

    def node_of(self, cpu: int) -> int:
        """The NUMA node of a CPU."""
        return self.node.get(cpu, 0)

    def nodes_of(self, cpus: Iterable[int]) -> tuple[int, ...]:
        """Those that have some of these CPUs, in rising order."""
        return tuple(sorted({self.node_of(cpu) for cpu in cpus}))

    @property
    def n_nodes(self) -> int:
        """How many nodes of this host have CPUs."""
        return max(1, len(set(self.node.values())))


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
