"""NUMA nodes: which of them a rank is to use, and where its memory is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pipeinfer_cli.launch.host.cores import Cores

NUMA_MAPS = Path("/proc/self/numa_maps")
STAT = Path("/proc/self/stat")
DEFAULT_POLICY = "default"


def current_cpu(stat: Path = STAT) -> int:
    """The CPU that this process runs on at the moment."""
    return int(stat.read_text().rpartition(")")[2].split()[36])


def isolated(
    masks: Sequence[frozenset[int]], started_on: Sequence[int], host: Cores
) -> list[frozenset[int]]:
    """The CPUs of one node for each rank of a host.

    A rank that shares its mask with none stays on the node it was started on. Those with the same
    mask are dealt out to its nodes, as evenly as can be, one node after the other.
    """
    found = []
    for index, mask in enumerate(masks):
        nodes = host.nodes_of(mask)
        alike = [i for i, each in enumerate(masks) if each == mask]
        started = host.node_of(started_on[index])
        if len(alike) > 1 or started not in nodes:
            started = nodes[alike.index(index) * len(nodes) // len(alike)]
        found.append(frozenset(cpu for cpu in mask if host.node_of(cpu) == started))
    return found


def memory_policy(numa_maps: Path = NUMA_MAPS) -> str:
    """That of this process, as the kernel calls it: default, interleave:0-1, bind:1, ..."""
    with suppress(OSError), numa_maps.open() as lines:
        for line in lines:
            return line.split()[1]
    return DEFAULT_POLICY  # a kernel without NUMA


def resident_by_node(
    folder: Path, numa_maps: Path = NUMA_MAPS
) -> tuple[Mapping[int, int], Mapping[int, int]]:
    """Bytes that this process has, by node: all of them, and those of mapped files of a folder."""
    everything: Counter[int] = Counter()
    files: Counter[int] = Counter()
    begin = f"file={_as_the_kernel_writes(folder)}/"
    with suppress(OSError), numa_maps.open(errors="surrogateescape") as lines:
        for line in lines:
            words = line.split()
            pages = Counter(dict(_pages(words)))
            everything += pages
            if any(word.startswith(begin) and "/" not in word[len(begin) :] for word in words):
                files += pages
    return everything, files


def _as_the_kernel_writes(path: Path) -> str:
    return "".join(f"\\{ord(each):03o}" if each in " \t\n\\" else each for each in str(path))


def _pages(words: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Of a mapping, N0=12 N1=3 and kernelpagesize_kB=4: its bytes by node."""
    sizes = [word.partition("=")[2] for word in words if word.startswith("kernelpagesize_kB=")]
    page_bytes = 1024 * int(sizes[0]) if sizes else 0
    for word in words:
        name, _, n_pages = word.partition("=")
        if name[:1] == "N" and name[1:].isdecimal() and n_pages.isdecimal():
            yield int(name[1:]), int(n_pages) * page_bytes
