"""An engine per rank of the job, driven by rank 0, for programs under mpiexec."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))

import rank_configs
from pipeinfer_cli.engine.config import EngineConfig
from pipeinfer_cli.engine.engine import Engine
from pipeinfer_cli.launch import mpi


def rank_config(
    comm: Any, path: Path, *, n_ctx: int, n_batch: int, weights: Sequence[float] | None = None
) -> EngineConfig:
    """This rank's engine, with the cores that the ranks of its host leave it."""
    config = rank_configs.rank_config(comm, path, n_ctx=n_ctx, n_batch=n_batch, weights=weights)
    index, on_host = mpi.resources_on_this_host(comm, 1)
    resources = on_host[index].with_own_cores(index, on_host)
    return replace(config, has_own_cores=resources.has_own_cores, cpus=resources.stage_cpus())


def drive(comm: Any, config: EngineConfig, work: Callable[[Engine], None]) -> None:
    """Opens the engines; rank 0 works with its own, the others serve until that is closed."""
    with Engine(config) as engine:
        comm.Barrier()
        if comm.rank == 0:
            work(engine)
        else:
            while engine.serve(0.2) is None:
                pass
