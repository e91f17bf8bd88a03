"""For the programs in this folder: a pipeline over the ranks of the job, driven by rank 0."""

from __future__ import annotations

import itertools
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

sys.path.append(str(Path(__file__).parents[1] / "helpers"))

from pipeinfer_cli.cluster.emulation import rank_emulation
from pipeinfer_cli.cluster.profile import Link, Profile, StageCurve, assumed_draft
from pipeinfer_cli.engine import llama_cpp
from pipeinfer_cli.engine.config import Adapter, CacheTypes, EngineConfig, RankEmulation
from pipeinfer_cli.engine.cpu import variants
from pipeinfer_cli.engine.cpu.devices import DeviceLayers
from pipeinfer_cli.engine.engine import Engine
from pipeinfer_cli.engine.rope import RopeConfig
from pipeinfer_cli.launch import mpi
from pipeinfer_cli.models.layer_split import LayerRange
from pipeinfer_cli.scheduler.policy import StateConfig
from pipeinfer_cli.scheduler.runs import KvKind, KvOp, Result, Run, SampleParams
from rank_configs import rank_config

T = TypeVar("T")
WAIT_S = 60.0
N_BATCH = 32
STATES = StateConfig(n_places=20, n_runs=14, n_tokens=8)  # of hybrids
REMOVE_ALL = KvOp(kind=KvKind.REMOVE, seq_src=-1)


def main(body: Callable[[Any, Any], Any]) -> None:
    """Calls body(comm, request) on every rank and prints rank 0's answer as JSON.

    An error on any rank ends all of them.
    """
    comm = start()
    try:
        answer = body(comm, json.loads(sys.argv[1]))
    except Exception:
        traceback.print_exc()
        comm.Abort(1)
        raise
    if comm.rank == 0:
        print(json.dumps(answer), flush=True)


def start() -> Any:
    """The communicator of the job."""
    os.environ["GGML_NO_BACKTRACE"] = "1"
    comm = mpi.start()
    llama_cpp.capture_log()
    return comm


def open_engine(comm: Any, request: dict[str, Any]) -> Engine:
    """This rank's engine. Request: model, n_ctx, and maybe n_cells, layer_split, sample, emulate,
    cache_types (two names), adapters ([[path, scale]]), rope (fields of RopeConfig),
    cpu_variants, a name for each rank, which the process keeps, exact_shape, and devices: a name
    for each rank, or "".

    For a model without vocabulary: layers, [first, last) for each rank, instead of layer_split.
    """
    if names := request.get("cpu_variants"):
        variants.load(names[comm.rank])
    if "devices" in request:
        variants.load()
    layers = [LayerRange(*each) for each in request["layers"]] if "layers" in request else None
    config = rank_config(
        comm,
        Path(request["model"]),
        n_ctx=request["n_ctx"],
        n_batch=N_BATCH,
        layers=layers,
        weights=request.get("layer_split"),
    )
    return Engine(
        replace(
            config,
            n_cells=request.get("n_cells", config.n_cells),
            cache_types=CacheTypes(*request.get("cache_types", ())),
            states=STATES,
            sample=SampleParams(**request.get("sample", {})),
            emulation=emulation(request.get("emulate"), comm),
            adapters=tuple(
                Adapter(path=Path(path), scale=scale) for path, scale in request.get("adapters", [])
            ),
            rope=RopeConfig(**request.get("rope", {})),
            **shape_and_devices(request, comm.rank),
        )
    )


def shape_and_devices(request: dict[str, Any], rank: int = 0) -> dict[str, Any]:
    """Fields of this rank's EngineConfig."""
    names = request.get("devices", [""] * (rank + 1))[rank : rank + 1]
    return {
        "devices": DeviceLayers(names=tuple(filter(None, names))),
        "exact_shape": request.get("exact_shape", 0),
    }


def open_alone(request: dict[str, Any]) -> Engine:
    """An engine of one stage, for this rank alone. Request: model, n_layer, n_ctx,
    and maybe n_cells, cache_types, exact_shape and devices."""
    if "devices" in request:
        variants.load()
    return Engine(
        EngineConfig(
            model_path=Path(request["model"]),
            layer_first=0,
            layer_last=request["n_layer"],
            n_ctx=request["n_ctx"],
            n_cells=request.get("n_cells", request["n_ctx"]),
            cache_types=CacheTypes(*request.get("cache_types", ())),
            n_batch=N_BATCH,
            n_threads=1,
            states=STATES,
            **shape_and_devices(request),
        )
    )


def emulation(cluster: dict[str, float] | None, comm: Any) -> RankEmulation | None:
    """Stages on all ranks but the head. Cluster: stage_ms, token_ms, latency_us, gbit_per_s."""
    if cluster is None:
        return None
    n_stages = comm.size - 1
    stage = StageCurve.line(base_ms=cluster["stage_ms"], token_ms=cluster["token_ms"])
    link = Link(latency_us=cluster["latency_us"], gbit_per_s=cluster["gbit_per_s"])
    profile = Profile(
        name="test",
        stages=(stage,) * n_stages,
        links=(link,) * n_stages,
        result_link=link,
        hidden_bytes=32768,
        draft=assumed_draft(stage, 1),
    )
    return rank_emulation(profile, comm.rank, N_BATCH)


def on_head(
    comm: Any, request: dict[str, Any], head: Callable[[Engine, Iterator[int]], T]
) -> T | None:
    """Opens the engines and runs `head` on rank 0 with a source of run ids; the others serve."""
    with open_engine(comm, request) as engine:
        if comm.rank == 0:
            return head(engine, itertools.count(1))
        while engine.serve(0.2) is None:
            pass
        return None


def wait(engine: Engine) -> Result:
    result = engine.wait(WAIT_S)
    assert result is not None, f"no result within {WAIT_S} s"
    return result


def call(engine: Engine, run: Run) -> Result:
    """Submits one run and waits for its result; nothing else may be in flight."""
    engine.submit(run)
    return wait(engine)
