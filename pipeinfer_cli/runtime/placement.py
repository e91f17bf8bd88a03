"""Which rank computes what, and where: --plan, --report-binding, time and memory of loading."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeinfer_cli import console, log, tables
from pipeinfer_cli.engine.gguf_info import ModelInfo
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.launch.environment import RankResources, format_cpulist, resident_bytes
from pipeinfer_cli.models.layer_split import LayerRange, stage_bytes
from pipeinfer_cli.runtime.config import JobConfig, Threads

HEADER = ("rank", "host", "cores", "threads", "layers", "bytes")

Row = tuple[str, ...]


def check(threads: Threads, all_resources: Sequence[RankResources]) -> None:
    """UserError unless a list of threads fits; a warning where threads have too few cores."""
    if isinstance(threads, Sequence) and len(threads) != len(all_resources):
        raise UserError(
            f"-t/--threads has {len(threads)} numbers for {len(all_resources)} ranks: "
            "give one per rank, or one for all"
        )
    for warning in warnings(all_resources):
        print(f"pipeinfer: warning: {warning}", file=sys.stderr)


def warnings(all_resources: Sequence[RankResources]) -> list[str]:
    """A sentence for each kind of rank that has more threads than cores, naming its ranks."""
    ranks: dict[tuple[int, int], list[int]] = {}
    for rank, resources in enumerate(all_resources):
        if resources.n_threads > len(resources.cpus):
            ranks.setdefault((resources.n_threads, len(resources.cpus)), []).append(rank)
    return [
        f"{n_threads} threads on {n_cores} core(s) of the affinity mask (rank "
        f"{format_cpulist(who)}; cores {format_cpulist(all_resources[who[0]].cpus)}): "
        "give fewer with --threads, or bind the rank to more"
        for (n_threads, n_cores), who in ranks.items()
    ]


def report(
    model: ModelInfo,
    layers: Sequence[LayerRange],
    all_resources: Sequence[RankResources],
    config: JobConfig,
) -> None:
    """The table on stdout for --plan, on stderr for --report-binding; and in the log."""
    table = rows(model, layers, all_resources)
    if config.plan_only and config.is_json:
        print(json.dumps(as_dict(model, layers, all_resources), ensure_ascii=False))
    elif config.plan_only:
        console.table(HEADER, table)
    for line in tables.aligned((HEADER, *table)):
        log.note(line, verbose=config.report_binding and not config.plan_only)


def rows(
    model: ModelInfo, layers: Sequence[LayerRange], all_resources: Sequence[RankResources]
) -> list[Row]:
    """A row for each rank; bytes are those of the tensors that a token's way reads there."""
    return [
        (
            str(rank),
            resources.host,
            format_cpulist(resources.cpus),
            str(resources.n_threads),
            str(held) if len(held) else "none",
            console.size(stage_bytes(model, held)),
        )
        for rank, (resources, held) in enumerate(zip(all_resources, layers, strict=True))
    ]


def as_dict(
    model: ModelInfo, layers: Sequence[LayerRange], all_resources: Sequence[RankResources]
) -> dict[str, Any]:
    """The same for programs: ranges are half-open, null where a rank has no layers."""
    ranks = [
        {
            "rank": rank,
            "host": resources.host,
            "cores": sorted(resources.cpus),
            "threads": resources.n_threads,
            "layers": [held.first, held.last] if len(held) else None,
            "bytes": stage_bytes(model, held),
        }
        for rank, (resources, held) in enumerate(zip(all_resources, layers, strict=True))
    ]
    return {"arch": model.arch, "n_layer": model.n_layer, "ranks": ranks}


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What one rank has loaded, and what that costs it."""

    rank: int
    host: str
    layers: LayerRange
    tensor_bytes: int  # that a token's way through this rank reads
    grown_bytes: int  # of the resident set, by loading: tensors, KV cache and compute buffers

    @classmethod
    def of(
        cls, model: ModelInfo, layers: Sequence[LayerRange], rank: int, resident_before: int
    ) -> Placement:
        """This process's, which is the rank's."""
        return cls(
            rank=rank,
            host=socket.gethostname(),
            layers=layers[rank],
            tensor_bytes=stage_bytes(model, layers[rank]),
            grown_bytes=resident_bytes() - resident_before,
        )


def note(placements: Iterable[Placement], verbose: bool) -> None:
    """A line for each rank that has loaded its part."""
    for each in placements:
        log.note(
            f"rank {each.rank} on {each.host}: layers {each.layers}, "
            f"{each.tensor_bytes / 1e6:.1f} MB of tensors, "
            f"resident set grown by {each.grown_bytes / 1e6:.1f} MB",
            verbose=verbose,
        )
