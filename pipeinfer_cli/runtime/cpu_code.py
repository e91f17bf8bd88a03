"""The code that each rank computes with: loaded at the start, and what is said where it differs."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeinfer_cli import log
from pipeinfer_cli.engine.cpu import variants
from pipeinfer_cli.engine.cpu.variants import CpuCode
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.launch.environment import RankResources, format_cpulist
from pipeinfer_cli.models.layer_split import LayerRange
from pipeinfer_cli.runtime.config import JobConfig

if TYPE_CHECKING:
    from mpi4py.MPI import Comm  # noqa: TID251 (only its name)

HEAD_FIRST_S = 5.0  # rank 0 says what is wrong with any rank, and ends all


def load(config: JobConfig, comm: Comm | None) -> CpuCode:
    """Loads what this rank was asked for, or its best. All ranks call it.

    Raises UserError on rank 0, naming the ranks, if any of them cannot.
    """
    rank = comm.rank if comm else 0
    code, error = CpuCode(variant=""), ""
    try:
        code = variants.load(config.cpu_variant_of(rank))
    except UserError as reason:
        error = str(reason)
    else:
        log.note(f"rank {rank} computes with {_whole(code)}", verbose=config.verbose)
    errors = comm.allgather((socket.gethostname(), error)) if comm else [("", error)]
    if not any(error for _, error in errors):
        return code
    if rank > 0:
        time.sleep(HEAD_FIRST_S)
    raise UserError(error if comm is None else by_reason(errors))


def by_reason(errors: Sequence[tuple[str, str]]) -> str:
    """One line for what is wrong with some ranks: hosts and errors by rank, "" where there is none.

    Ranks with the same error are named together.
    """
    ranks: dict[str, list[int]] = {}
    for rank, (_, error) in enumerate(errors):
        if error:
            ranks.setdefault(error, []).append(rank)
    parts = []
    for error, who in ranks.items():
        hosts = ", ".join(dict.fromkeys(errors[rank][0] for rank in who))
        parts.append(f"rank {format_cpulist(who)} on {hosts}: {error}")
    return "; ".join(parts)


def mixture(
    layers: Sequence[LayerRange],
    all_resources: Sequence[RankResources],
    devices: Sequence[str] = (),
) -> str:
    """What is said of ranks with layers whose sums may have other bits; empty: they have not.

    `devices` are what each rank computes with beside its processor, in words.
    """
    if any(devices):
        return _mixture_of_devices(layers, devices)
    ranks: dict[CpuCode, list[int]] = {}
    for rank, resources in enumerate(all_resources):
        if resources.cpu is not None and len(layers[rank]):
            ranks.setdefault(resources.cpu, []).append(rank)
    if len(ranks) < 2:
        return ""
    named = len({code.variant for code in ranks}) == len(ranks)
    shown = [
        f"rank {format_cpulist(who)} with {code.variant if named else _whole(code)}"
        for code, who in ranks.items()
    ]
    common = variants.best_common(list(ranks))
    has_cure = common is not None and len({(code.build, code.math) for code in ranks}) == 1
    todo = f": {variants.OPTION} {common} makes them alike" if named and has_cure else ""
    return (
        f"ranks compute with different instructions ({', '.join(shown)}), and the text may depend "
        f"on which rank holds which layers{todo}"
    )


def _mixture_of_devices(layers: Sequence[LayerRange], devices: Sequence[str]) -> str:
    ranks: dict[str, list[int]] = {}
    for rank, kind in enumerate(devices):
        if len(layers[rank]):
            ranks.setdefault(kind or "its processor", []).append(rank)
    if len(ranks) < 2:
        return ""
    shown = [f"rank {format_cpulist(who)} with {kind}" for kind, who in ranks.items()]
    return (
        f"ranks compute with different devices ({', '.join(shown)}), and the text may depend on "
        "which rank holds which layers"
    )


def _whole(code: CpuCode) -> str:
    parts = (code.variant, code.build, code.math, code.instructions)
    return ", ".join(filter(None, parts))
