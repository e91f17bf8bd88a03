"""The engine of one rank of a job, for programs under mpiexec: of tests, and of benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeinfer_cli.engine.config import EngineConfig
from pipeinfer_cli.launch import mpi
from pipeinfer_cli.models.gguf.info import read_model_info
from pipeinfer_cli.models.layer_split import LayerRange, split_layers


def rank_config(
    comm: Any,
    path: Path,
    *,
    n_ctx: int,
    n_batch: int,
    layers: Sequence[LayerRange] | None = None,
    weights: Sequence[float] | None = None,
) -> EngineConfig:
    """This rank's, with one thread. All ranks call it.

    The layers of each rank are given, or split: by `weights`, one per rank, or evenly.
    """
    if layers is None:
        layers = split_layers(read_model_info(path), comm.size, weights)
    return EngineConfig(
        model_path=path,
        rank=comm.rank,
        n_ranks=comm.size,
        stage_rank0=0 if len(layers[0]) else 1,
        layer_first=layers[comm.rank].first,
        layer_last=layers[comm.rank].last,
        n_ctx=n_ctx,
        n_cells=n_ctx,
        n_batch=n_batch,
        n_threads=1,
        mpi=mpi.calls(comm),
    )
