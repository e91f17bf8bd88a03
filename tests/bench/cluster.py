"""An emulated cluster for programs under mpiexec: one rank per stage, and the head.

    mpiexec -n N python tests/bench/cluster.py MODEL.gguf PROFILE < cases

As a program it measures cases, one JSON object a line on stdin and on stdout: a loaded pipeline
serves all of them. The keys of a case are Case's fields; those of an answer are Outcome's.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pipeinfer_cli import mpi, native
from pipeinfer_cli.bench.config import parse_strategy
from pipeinfer_cli.emulation import profile_file
from pipeinfer_cli.emulation.profile import Profile
from pipeinfer_cli.emulation.rank import RankEmulation
from pipeinfer_cli.emulation.synthetic import RandomLuck, SyntheticText
from pipeinfer_cli.native import Engine, EngineConfig
from pipeinfer_cli.pipeline import N_BATCH, Plan
from pipeinfer_cli.policy import DraftConfig
from pipeinfer_cli.requests import Head, Request
from pipeinfer_cli.split import split_layers
from pipeinfer_cli.stats import measure

PROMPT = [504, 3575, 282, 4649, 314, 253, 2232, 30]
N_CTX = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One request with a synthetic text."""

    strategy: str  # maybe with ablations
    draft_max: int  # 0: nothing is drafted
    acceptance: str
    n_predict: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of it."""

    tokens_per_s: float
    n_runs: int
    n_late: int  # computations and drafted tokens that took longer than in the profile
    worst_late_ms: float


def run(model: Path, profile: Profile, work: Callable[[Head], int]) -> int:
    """Loads the pipeline on all ranks; the head works, the others serve. The exit code."""
    comm = mpi.start()
    native.capture_log()
    assert comm.size == profile.n_stages + 1, f"{profile.name} needs {profile.n_stages + 1} ranks"
    info = native.read_model_info(model)
    weights = [0.0, *(float(len(each)) for each in split_layers(info, profile.n_stages, None))]
    layers = split_layers(info, comm.size, weights)
    config = EngineConfig(
        model_path=model,
        rank=comm.rank,
        n_ranks=comm.size,
        stage_rank0=1,
        layer_first=layers[comm.rank].first,
        layer_last=layers[comm.rank].last,
        n_ctx=N_CTX,
        n_batch=N_BATCH,
        n_threads=1,
        comm_data=comm.Dup().py2f(),
        comm_control=comm.Dup().py2f(),
        emulation=RankEmulation.of(profile, comm.rank, N_BATCH),
    )
    plan = Plan(
        model_path=model, model=info, layers=layers, n_ctx=N_CTX, n_cells=N_CTX, profile=profile
    )
    with Engine(config) as engine:
        comm.Barrier()
        if comm.rank == 0:
            return work(Head(plan, engine, timeout_s=60))
        while engine.serve(0.2) is None:
            pass
        return 0


def request_of(case: Case) -> Request:
    """As `pipeinfer bench` would make it."""
    strategy, ablations = parse_strategy(case.strategy)
    luck = RandomLuck.parse(case.acceptance, case.seed)
    drafts = {"draft": DraftConfig(n_max=case.draft_max)} if case.draft_max else {}
    return Request(
        prompt=PROMPT,
        n_max=case.n_predict,
        strategy=strategy,
        ablations=ablations,
        synthetic=SyntheticText(luck=luck, seed=case.seed),
        **drafts,
    )


def measured(head: Head, case: Case) -> Outcome:
    """Carries out one request."""
    head.lateness.__init__()  # of this request alone
    with head.begin(request_of(case)) as running:
        start_s = time.monotonic()
        times_s = [time.monotonic() for _ in islice(running.tokens, case.n_predict)]
        late = head.lateness
        stats = measure(running.setting, start_s, times_s, running.counters)
        return Outcome(
            tokens_per_s=stats.tokens_per_s,
            n_runs=stats.n_runs,
            n_late=late.n_late_in_all,
            worst_late_ms=max(
                late.as_dict()["worst_late_ms"], late.as_dict()["worst_draft_late_ms"]
            ),
        )


def answer(head: Head) -> int:
    for line in sys.stdin:
        outcome = measured(head, Case(**json.loads(line)))
        print(json.dumps(dataclasses.asdict(outcome)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), profile_file.load(sys.argv[2]), answer))
