"""An emulated cluster for programs under mpiexec: one rank per stage, and the head.

    mpiexec -n N python benchmarks/cluster.py MODEL.gguf PROFILE < cases

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

from pipeinfer_cli.cluster.acceptance.models import RandomAcceptance
from pipeinfer_cli.cluster.acceptance.text import SyntheticText
from pipeinfer_cli.cluster.overruns import Overruns
from pipeinfer_cli.commands.generate_config import GenerateConfig, Prompt
from pipeinfer_cli.engine.engine import Engine
from pipeinfer_cli.launch import mpi
from pipeinfer_cli.runtime import pipeline
from pipeinfer_cli.runtime.head import Head, Request
from pipeinfer_cli.runtime.pipeline import Plan
from pipeinfer_cli.scheduler.metrics import measure
from pipeinfer_cli.scheduler.policy import DEFAULT_DRAFT, DraftConfig, parse_strategy

PROMPT = [504, 3575, 282, 4649, 314, 253, 2232, 30]
N_CTX = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One request with a synthetic text."""

    strategy: str  # maybe with ablations
    draft_max: int | None  # 0: nothing is drafted, the strategy is iterative; None: chosen
    acceptance: str
    n_predict: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of it."""

    tokens_per_s: float
    n_late: int  # computations and drafted tokens that took longer than in the profile
    n_computed: int  # of them
    worst_late_ms: float

    @property
    def late_share(self) -> float:
        return self.n_late / max(self.n_computed, 1)


def run(model: Path, profile: str, work: Callable[[Head], int]) -> int:
    """Loads the pipeline on all ranks; the head works, the others serve. The exit code."""
    code = 0

    def prepare(plan: Plan) -> Callable[[Engine], None]:
        def lead(engine: Engine) -> None:
            nonlocal code
            code = work(Head(plan, engine, timeout_s=60))

        return lead

    config = GenerateConfig(
        model=str(model), prompt=Prompt(text=""), emulate=profile, n_ctx=N_CTX, threads=1
    )
    return pipeline.run(config, mpi.start(), prepare) or code


def request_of(case: Case) -> Request:
    """As `pipeinfer bench` would make it."""
    strategy, ablations = parse_strategy(case.strategy)
    acceptance = RandomAcceptance.parse(case.acceptance, case.seed)
    return Request(
        prompt=PROMPT,
        n_max=case.n_predict,
        strategy=strategy,
        ablations=ablations,
        draft=DEFAULT_DRAFT if case.draft_max is None else DraftConfig(n_max=case.draft_max or 1),
        synthetic=SyntheticText(acceptance=acceptance, seed=case.seed),
    )


def measured(head: Head, case: Case) -> Outcome:
    """Carries out one request."""
    late = head.overruns = Overruns()  # of this request alone
    with head.begin(request_of(case)) as active:
        start_s = time.monotonic()
        times_s = [time.monotonic() for _ in islice(active.tokens, case.n_predict)]
        stats = measure(active.info, start_s, times_s, active.counters)
    return Outcome(
        tokens_per_s=stats.tokens_per_s,
        n_late=late.n_late_in_all,
        n_computed=late.n_computed + late.n_drafted,
        worst_late_ms=max((late.worst_draft_us, *late.worst_us.values())) / 1000,
    )


def answer(head: Head) -> int:
    for line in sys.stdin:
        outcome = measured(head, Case(**json.loads(line)))
        print(json.dumps(dataclasses.asdict(outcome)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), sys.argv[2], answer))
