"""An engine per rank of the job, driven by rank 0, for programs under mpiexec."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeinfer_cli.engine.config import EngineConfig
from pipeinfer_cli.engine.engine import Engine
from pipeinfer_cli.engine.gguf_info import read_model_info
from pipeinfer_cli.launch import mpi
from pipeinfer_cli.models.layer_split import split_layers


def rank_config(
    comm: Any, path: Path, *, n_ctx: int, n_batch: int, weights: Sequence[float] | None = None
) -> EngineConfig:
    """This rank's engine, with one thread. `weights`: of layers, one per rank; None: even."""
    layers = split_layers(read_model_info(path), comm.size, weights)
    index, on_host = mpi.resources_on_this_host(comm, 1)
    resources = on_host[index].with_own_cores(index, on_host)
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
        has_own_cores=resources.has_own_cores,
        cpus=resources.stage_cpus(),
        comm_data=comm.Dup().py2f(),
        comm_control=comm.Dup().py2f(),
    )


def drive(comm: Any, config: EngineConfig, work: Callable[[Engine], None]) -> None:
    """Opens the engines; rank 0 works with its own, the others serve until that is closed."""
    with Engine(config) as engine:
        comm.Barrier()
        if comm.rank == 0:
            work(engine)
        else:
            while engine.serve(0.2) is None:
                pass
