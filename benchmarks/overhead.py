"""What a hop costs: an S-stage pipeline against one process doing the same work, in turn.

    mpiexec -n S python benchmarks/overhead.py MODEL.gguf [tokens] [rounds]

Each round decodes the same tokens one at a time, first on rank 0 alone (all layers), then through
the pipeline, with one compute thread per rank; a token goes through one stage after the other, so
that both do the same work. `hop` is what a token's way through the pipeline takes beyond the
stages' own compute, per hop (S hops: between stages, and back to the head).
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from pipeinfer_cli.engine import llama_cpp
from pipeinfer_cli.engine.config import EngineConfig
from pipeinfer_cli.engine.engine import Engine
from pipeinfer_cli.launch import mpi
from pipeinfer_cli.models.gguf.info import read_model_info
from pipeinfer_cli.runtime.decode_loop import POLL_S
from pipeinfer_cli.scheduler.runs import Run, RunToken
from rank_engine import drive, rank_config

N_CTX = 512
N_BATCH = 32


def decode(engine: Engine, n_tokens: int) -> tuple[list[float], list[float]]:
    """Milliseconds per token: seen by the head, and computed by the stages in all."""
    walls, computes = [], []
    for index in range(n_tokens):
        start = time.perf_counter()
        token = RunToken(id=100 + index, position=index, want=True)
        engine.submit(Run(run_id=index + 1, tokens=(token,)))
        while (result := engine.wait(POLL_S)) is None:
            pass
        walls.append(1000 * (time.perf_counter() - start))
        computes.append(sum(each.compute_us for each in result.times) / 1000)
    return walls, computes


def main() -> None:
    path = Path(sys.argv[1])
    n_tokens = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    n_rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    comm = mpi.start()
    llama_cpp.capture_log()
    config = rank_config(comm, path, n_ctx=N_CTX, n_batch=N_BATCH)
    whole = EngineConfig(
        model_path=path,
        layer_first=0,
        layer_last=read_model_info(path).n_layer,
        n_ctx=N_CTX,
        n_cells=N_CTX,
        n_batch=N_BATCH,
        n_threads=1,
    )
    rows: list[Any] = []
    for _ in range(n_rounds):
        alone: Any = None
        if comm.rank == 0:
            with Engine(whole) as engine:
                alone = decode(engine, n_tokens)
        _sleep_until_all_are_here(comm)
        drive(comm, config, partial(_measure, rows, alone, n_tokens))
    if comm.rank == 0:
        _print(rows, comm.size)


def _measure(rows: list[Any], alone: Any, n_tokens: int, engine: Engine) -> None:
    rows.append((alone, decode(engine, n_tokens)))


def _sleep_until_all_are_here(comm: Any) -> None:
    """A barrier that leaves the cores alone."""
    request = comm.Ibarrier()
    while not request.Test():
        time.sleep(0.01)


def _print(rows: list[Any], n_stages: int) -> None:
    print("round  alone ms  pipeline ms  ratio  compute alone ms  in stages ms  hop us  hops %")
    ratios, hops, shares = [], [], []
    for index, (alone, pipeline) in enumerate(rows):
        walls, computes = pipeline
        hop_ms = median(w - c for w, c in zip(walls, computes, strict=True))
        ratios.append(median(walls) / median(alone[0]))
        hops.append(1000 * hop_ms / n_stages)
        shares.append(100 * hop_ms / median(walls))
        print(
            f"{index + 1:5d}  {median(alone[0]):8.3f}  {median(walls):11.3f}  {ratios[-1]:5.3f}"
            f"  {median(alone[1]):16.3f}  {median(computes):12.3f}  {hops[-1]:6.1f}"
            f"  {shares[-1]:6.2f}"
        )
    print(
        f"median over {len(rows)} rounds, {n_stages} stages: pipeline/alone {median(ratios):.3f}, "
        f"a hop costs {median(hops):.1f} us, all hops {median(shares):.2f} % of a token"
    )


if __name__ == "__main__":
    main()
