"""Which rank computes what, and where: --plan, --report-binding, time and memory of loading."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeinfer_cli import console, log, tables
from pipeinfer_cli.engine.config import F16_CACHE, CacheTypes
from pipeinfer_cli.engine.cpu import variants
from pipeinfer_cli.engine.cpu.devices import DeviceBytes, DeviceLayers
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.launch.environment import RankResources, format_cpulist, resident_bytes
from pipeinfer_cli.launch.host import numa
from pipeinfer_cli.models.gguf.info import ModelInfo
from pipeinfer_cli.models.layer_split import LayerRange, stage_bytes
from pipeinfer_cli.runtime.config import JobConfig

MUCH_FAR = 0.25  # of a rank's mapped weights: some are mapped by several ranks

HEADER = ("rank", "host", "cores", "threads", "CPU variant", "layers", "bytes", "KV", "memory")

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What the ranks of a plan hold."""

    model: ModelInfo
    layers: Sequence[LayerRange]  # by rank
    kv_bytes: Sequence[int]  # by rank, of the KV cache; 0: none, or unknown
    state_bytes: Sequence[int] = ()  # by rank, of recurrent layers' states; none: there are none
    cache_types: CacheTypes = F16_CACHE
    inexact: str = ""  # see engine.cpu.exactness
    mixture: str = ""  # see cpu_code.mixture
    devices: Sequence[DeviceLayers] = ()  # by rank; none: no rank has any
    exact_shape: int = 0  # see EngineConfig

    @property
    def header(self) -> Row:
        """Of the table: devices only where there are some."""
        return (*HEADER, "devices") if self.devices else HEADER

    def devices_of(self, rank: int) -> tuple[str, ...]:
        """Their names."""
        return self.devices[rank].names if self.devices else ()

    def is_on_devices(self, rank: int) -> bool:
        """Whether all of the rank's layers are."""
        return bool(self.devices_of(rank)) and self.devices[rank].n_layers < 0

    def states_of(self, rank: int) -> int:
        """Bytes of its recurrent layers' states."""
        return self.state_bytes[rank] if self.state_bytes else 0

    @property
    def states_line(self) -> str:
        """What all of them take."""
        return f"states of recurrent layers: {', '.join(map(console.size, self.state_bytes))}"

    def bytes_of(self, rank: int) -> int:
        """Of the tensors that a token's way reads there."""
        return stage_bytes(self.model, self.layers[rank])

    def has_unknown_cells(self, rank: int) -> bool:
        """Whether the model does not say how large the rank's part of the KV cache is."""
        return len(self.layers[rank]) > 0 and not self.kv_bytes[rank]


def check(config: JobConfig, all_resources: Sequence[RankResources]) -> None:
    """UserError unless lists by rank fit; a warning where threads have too few cores."""
    n_ranks, threads, names = len(all_resources), config.threads, config.cpu_variants
    if isinstance(threads, Sequence) and len(threads) != n_ranks:
        raise UserError(
            f"-t/--threads has {len(threads)} numbers for {n_ranks} ranks: "
            "give one per rank, or one for all"
        )
    if len(names) > 1 and len(names) != n_ranks:
        raise UserError(
            f"{variants.OPTION} has {len(names)} names for {n_ranks} ranks: "
            "give one per rank, or one for all"
        )
    for warning in warnings(all_resources):
        print(f"pipeinfer: warning: {warning}", file=sys.stderr)


def warnings(all_resources: Sequence[RankResources]) -> list[str]:
    """A sentence for each kind of rank that has more threads than cores, naming its ranks."""
    ranks: dict[tuple[int, int], list[int]] = {}
    for rank, resources in enumerate(all_resources):
        if resources.n_threads > resources.n_cores:
            ranks.setdefault((resources.n_threads, resources.n_cores), []).append(rank)
    return [_too_many_threads(who, all_resources[who[0]]) for who in ranks.values()]


def _too_many_threads(ranks: Sequence[int], resources: RankResources) -> str:
    who = f"rank {format_cpulist(ranks)}; cores {format_cpulist(resources.cpus)}"
    if resources.n_cores < len(resources.cpus):
        limit, way = f"that the CPU quota of {resources.cpu_quota:g} allows", "raise the quota"
    else:
        limit, way = "of the affinity mask", "bind the rank to more"
    return (
        f"{resources.n_threads} threads on {resources.n_cores} core(s) {limit} ({who}): "
        f"give fewer with --threads, or {way}"
    )


def report(layout: Layout, all_resources: Sequence[RankResources], config: JobConfig) -> None:
    """The table on stdout for --plan, on stderr for --report-binding; and in the log."""
    found = memory_warnings(layout, all_resources)
    for warning in [*found, layout.mixture] if layout.mixture else found:
        print(f"pipeinfer: warning: {warning}", file=sys.stderr)
    table = rows(layout, all_resources)
    if config.plan_only and config.is_json:
        print(json.dumps(as_dict(layout, all_resources), ensure_ascii=False))
    elif config.plan_only:
        console.table(layout.header, table)
    for line in tables.aligned((layout.header, *table)):
        log.note(line, verbose=config.report_binding and not config.plan_only)


def memory_warnings(layout: Layout, all_resources: Sequence[RankResources]) -> list[str]:
    """A sentence for each host whose ranks hold more than it, or its control group, has memory."""
    found = _device_warnings(layout, all_resources)
    for host in dict.fromkeys(resources.host for resources in all_resources):
        ranks = [
            rank
            for rank, each in enumerate(all_resources)
            if each.host == host and not layout.is_on_devices(rank)
        ]
        if not ranks:
            continue
        tensors = sum(layout.bytes_of(rank) for rank in ranks)
        cells = sum(layout.kv_bytes[rank] + layout.states_of(rank) for rank in ranks)
        usable = all_resources[ranks[0]].memory_bytes
        if usable is not None and tensors + cells > usable:
            beside = f" and {console.size(cells)} of KV cache" if cells else ""
            found.append(
                f"rank {format_cpulist(ranks)} on {host}: {console.size(tensors)} of tensors"
                f"{beside}, but {console.size(usable)} of memory: use more hosts, or raise the "
                "job's limit"
            )
    return found


def _device_warnings(layout: Layout, all_resources: Sequence[RankResources]) -> list[str]:
    """A sentence for each device that has less memory than its ranks' whole stages take."""
    needed: dict[tuple[str, str], float] = {}
    has: dict[tuple[str, str], int] = {}
    for rank, resources in enumerate(all_resources):
        names = layout.devices_of(rank) if layout.is_on_devices(rank) else ()
        for device in resources.devices:
            if device.name in names and device.free_bytes:
                key = resources.host, device.name
                part = (layout.bytes_of(rank) + layout.kv_bytes[rank]) / len(names)
                needed[key] = needed.get(key, 0.0) + part
                has[key] = device.free_bytes
    return [
        f"{name} on {host}: {console.size(int(n_bytes))} of tensors and KV cache, but "
        f"{console.size(has[host, name])} free: give fewer layers with -ngl, or use more devices"
        for (host, name), n_bytes in needed.items()
        if n_bytes > has[host, name]
    ]


def rows(layout: Layout, all_resources: Sequence[RankResources]) -> list[Row]:
    """A row for each rank; bytes are those of the tensors that a token's way reads there.

    KV is its part of the KV cache. Memory is the host's, or what its control group allows of it.
    """
    return [
        (
            str(rank),
            resources.host,
            format_cpulist(resources.cpus),
            str(resources.n_threads),
            resources.cpu.variant if resources.cpu else "?",
            str(held) if len(held) else "none",
            console.size(layout.bytes_of(rank)),
            "?" if layout.has_unknown_cells(rank) else console.size(layout.kv_bytes[rank]),
            "?" if resources.memory_bytes is None else console.size(resources.memory_bytes),
            *(["+".join(layout.devices_of(rank)) or "none"] if layout.devices else []),
        )
        for rank, (resources, held) in enumerate(zip(all_resources, layout.layers, strict=True))
    ]


def as_dict(layout: Layout, all_resources: Sequence[RankResources]) -> dict[str, Any]:
    """The same for programs: ranges are half-open, null where a rank has no layers."""
    ranks = [
        {
            "rank": rank,
            "host": resources.host,
            "cores": sorted(resources.cpus),
            "threads": resources.n_threads,
            "cpu_variant": resources.cpu.variant if resources.cpu else None,
            "layers": [held.first, held.last] if len(held) else None,
            "bytes": layout.bytes_of(rank),
            "state_bytes": layout.states_of(rank),
            "kv_bytes": None if layout.has_unknown_cells(rank) else layout.kv_bytes[rank],
            "memory_bytes": resources.memory_bytes,
            **({"devices": list(layout.devices_of(rank))} if layout.devices else {}),
        }
        for rank, (resources, held) in enumerate(zip(all_resources, layout.layers, strict=True))
    ]
    return {
        "arch": layout.model.arch,
        "n_layer": layout.model.n_layer,
        "type_k": layout.cache_types.k,
        "type_v": layout.cache_types.v,
        "exact": not (layout.inexact or layout.mixture),
        **({"exact_shape": layout.exact_shape} if layout.exact_shape else {}),
        "ranks": ranks,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What one rank has loaded, and what that costs it."""

    rank: int
    host: str
    layers: LayerRange
    tensor_bytes: int  # that a token's way through this rank reads
    grown_bytes: int  # of the resident set, by loading: tensors, KV cache and compute buffers
    bytes_on: Mapping[int, int]  # of the process, by NUMA node; empty where there is only one
    n_far: int  # of these, bytes of mapped files on other nodes than the rank's memory shall be
    n_mapped: int
    on_devices: DeviceBytes = DeviceBytes()  # noqa: RUF009 (frozen)

    @classmethod
    def of(
        cls,
        model: ModelInfo,
        layers: Sequence[LayerRange],
        rank: int,
        resident_before: int,
        *,
        nodes: Sequence[int],
        path: Path | None,
        on_devices: DeviceBytes,
    ) -> Placement:
        """This process's, which is the rank's.

        `nodes`: where its memory shall be, see RankResources.memory_nodes; `path`: of what it has
        loaded; None: it could not.
        """
        everything: Mapping[int, int] = {}
        files: Mapping[int, int] = {}
        if nodes and path is not None:  # else spared: the kernel counts pages one by one
            everything, files = numa.resident_by_node(path.resolve().parent)
        return cls(
            rank=rank,
            host=socket.gethostname(),
            layers=layers[rank],
            tensor_bytes=stage_bytes(model, layers[rank]),
            grown_bytes=resident_bytes() - resident_before,
            bytes_on=everything,
            n_far=sum(n_bytes for node, n_bytes in files.items() if node not in nodes),
            n_mapped=sum(files.values()),
            on_devices=on_devices,
        )

    @property
    def in_devices(self) -> str:
        """A part of a sentence: what it has in memory of devices."""
        part = self.on_devices
        if not part.total:
            return ""
        return (
            f"; on devices {part.total / 1e6:.1f} MB: {part.weights / 1e6:.1f} MB of tensors, "
            f"{part.cache / 1e6:.1f} MB of KV cache, {part.compute / 1e6:.1f} MB of buffers"
        )

    @property
    def on_nodes(self) -> str:
        """A part of a sentence: what the process has on each node."""
        parts = [f"{console.size(self.bytes_on[node])} on {node}" for node in sorted(self.bytes_on)]
        return f"; by NUMA node: {', '.join(parts)}" if parts else ""


def note(placements: Iterable[Placement], config: JobConfig) -> None:
    """A line for each rank that has loaded its part; another one where much of it is far away."""
    for each in placements:
        log.note(
            f"rank {each.rank} on {each.host}: layers {each.layers}, "
            f"{each.tensor_bytes / 1e6:.1f} MB of tensors, "
            f"resident set grown by {each.grown_bytes / 1e6:.1f} MB"
            f"{each.in_devices}{each.on_nodes}",
            verbose=config.verbose or (config.report_binding and bool(each.bytes_on)),
        )
        if each.n_far > MUCH_FAR * each.n_mapped:
            console.note(
                f"rank {each.rank} on {each.host}: {each.n_far / each.n_mapped:.0%} of its mapped "
                "weights are in memory of other NUMA nodes, where they were cached, and cannot be "
                "moved: --no-mmap reads them into its own"
            )
