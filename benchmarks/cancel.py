"""How fast a cancel takes effect: from the cancel to the cancelled run's result, at the head.

    mpiexec -n S python benchmarks/cancel.py MODEL.gguf [repetitions [device [shape]]]

A run of 32 tokens is cancelled at a random moment of its compute; the result comes once the stage
that computes it has given up at the end of a graph node. For comparison: the whole run, and what
its longest node may take (the output head, or a feed-forward matrix, for 32 tokens). On a device
it is the end of a few layers, and with a shape of N tokens (see --exact-shape), of N of the run's.
"""

from __future__ import annotations

import random
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

from pipeinfer_cli.engine import llama_cpp
from pipeinfer_cli.engine.cpu import variants
from pipeinfer_cli.engine.cpu.devices import DeviceLayers
from pipeinfer_cli.engine.engine import Engine
from pipeinfer_cli.launch import mpi
from pipeinfer_cli.scheduler.metrics import percentile
from pipeinfer_cli.scheduler.runs import KvKind, KvOp, Result, Run, RunStatus, RunToken
from rank_engine import drive, rank_config

N_TOKENS = 32
FORGET = (KvOp(kind=KvKind.REMOVE, seq_src=-1),)


def make_run(run_id: int) -> Run:
    tokens = tuple(RunToken(id=1000 + i, position=i) for i in range(N_TOKENS))
    return Run(run_id=run_id, tokens=tokens, kv_ops=FORGET)


def wait(engine: Engine) -> Result:
    while (result := engine.wait(1)) is None:
        pass
    return result


def main() -> None:
    path, n_times = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 100
    comm = mpi.start()
    llama_cpp.capture_log()
    config = rank_config(comm, path, n_ctx=256, n_batch=N_TOKENS)
    if sys.argv[3:]:
        variants.load()
        config = replace(
            config,
            devices=DeviceLayers(names=(sys.argv[3],)),
            exact_shape=int(sys.argv[4]) if sys.argv[4:] else 0,
        )
    drive(comm, config, lambda engine: measure(engine, n_times))


def measure(engine: Engine, n_times: int) -> None:
    whole_ms, ends_us = [], []
    for index in range(n_times):
        start = time.perf_counter()
        engine.submit(make_run(2 * index + 1))
        wait(engine)
        whole_ms.append(1000 * (time.perf_counter() - start))
        engine.submit(make_run(2 * index + 2))
        time.sleep(random.uniform(0.05, 0.9) * median(whole_ms) / 1000)
        cancelled = time.perf_counter()
        engine.cancel(2 * index + 2, 2 * index + 2)
        if wait(engine).status is RunStatus.CANCELLED:
            ends_us.append(1e6 * (time.perf_counter() - cancelled))
    print(
        f"{len(ends_us)} of {n_times} runs cancelled in mid-compute; a whole run takes "
        f"{median(whole_ms):.1f} ms; cancel to result: median {median(ends_us):.0f} us, "
        f"p90 {percentile(ends_us, 90):.0f} us, max {max(ends_us):.0f} us"
    )


if __name__ == "__main__":
    main()
