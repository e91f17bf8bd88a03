"""What control groups allow this process: CPU time and memory. Versions 1 and 2."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

PROC = Path("/proc/self")
NO_LIMIT_BYTES = 1 << 60  # version 1 writes a number of this size for none


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Those of the process's groups and of all above them; None: none."""

    cpus: float | None = None  # CPU seconds per second, by a quota
    memory_bytes: int | None = None


@lru_cache(maxsize=1)
def limits(proc: Path = PROC) -> Limits:
    """Reads them, once. What cannot be read is not a limit."""
    memory = min(_values(proc, "memory", _memory_v1, _memory_v2), default=None)
    return Limits(
        cpus=min(_values(proc, "cpu", _cpus_v1, _cpus_v2), default=None),
        memory_bytes=None if memory is None else int(memory),
    )


Reader = Callable[[Path], float]


def _values(proc: Path, controller: str, read_v1: Reader, read_v2: Reader) -> Iterator[float]:
    """The limits that groups set, from the process's own up to the topmost that we see."""
    with suppress(OSError, ValueError):  # a line of another form ends it
        for version, top, folder in _groups(proc, controller):
            read = read_v2 if version == 2 else read_v1
            for group in (folder, *folder.parents):
                with suppress(OSError, ValueError):  # not set, or not a number: "max"
                    yield read(group)
                if group == top:
                    break


def _groups(proc: Path, controller: str) -> Iterator[tuple[int, Path, Path]]:
    """For each hierarchy that has the controller: version, topmost folder, the process's folder."""
    paths = {}  # from a controller to the process's group; version 2 has no name
    for line in _lines(proc / "cgroup"):
        _, names, group = line.split(":", 2)
        paths.update(dict.fromkeys(names.split(","), group))
    for line in _lines(proc / "mountinfo"):
        mount, _, system = line.partition(" - ")
        root, top = mount.split()[3:5]
        kind, _, options = system.split(" ", 2)  # the source may be empty
        is_v2 = kind == "cgroup2"
        if not is_v2 and not (kind == "cgroup" and controller in options.split(",")):
            continue
        path = paths.get("" if is_v2 else controller)
        if path is not None:
            yield 2 if is_v2 else 1, Path(top), _folder(Path(top), root, path)


def _lines(path: Path) -> list[str]:
    """Of a file with others' paths, which may have any bytes."""
    return path.read_text(errors="surrogateescape").split("\n")[:-1]


def _folder(top: Path, root: str, path: str) -> Path:
    """Where a group is mounted: containers see only the part of the tree below `root`."""
    with suppress(ValueError):
        below = Path(path).relative_to(root)
        if ".." not in below.parts and (top / below).is_dir():
            return top / below
    return top


def _cpus_v1(group: Path) -> float:
    quota_us = int((group / "cpu.cfs_quota_us").read_text())
    if quota_us <= 0:
        raise ValueError("no quota")
    return quota_us / int((group / "cpu.cfs_period_us").read_text())


def _cpus_v2(group: Path) -> float:
    quota_us, period_us = (group / "cpu.max").read_text().split()
    return int(quota_us) / int(period_us)


def _memory_v1(group: Path) -> float:
    limit_bytes = int((group / "memory.limit_in_bytes").read_text())
    if limit_bytes >= NO_LIMIT_BYTES:
        raise ValueError("no limit")
    return limit_bytes


def _memory_v2(group: Path) -> float:
    return int((group / "memory.max").read_text())
