"""Validation: what `pipeinfer simulate` predicts against emulated clusters, case by case.

    python benchmarks/simulation.py MODEL.gguf --launch 'mpiexec -n {}' [--profiles a,b] ...

Both draw the same verdicts: same seed, same number of prompt tokens. `late` is how many of the
stages' computations and drafted tokens took longer than in the profile. Where that is more than
0.5 % of them, this machine had no time for that cluster: the case is measured again, up to three
times in all, and the one with the fewest counts. Prints a Markdown table; exits with 1 if a ratio
simulated/emulated is off by more than 10 %.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from statistics import median
from typing import IO, NamedTuple

from cluster import PROMPT, Case, Outcome
from pipeinfer_cli.cluster import profile_toml
from pipeinfer_cli.cluster.acceptance.models import RandomAcceptance
from pipeinfer_cli.cluster.acceptance.text import SyntheticText
from pipeinfer_cli.cluster.profile import Profile
from pipeinfer_cli.cluster.simulate import Cluster, Prediction, SimulateConfig, compare

TOLERANCE = 0.10
MAX_LATE = 0.005
N_TRIES = 3
START_S = 120.0
HEADINGS = (
    *("profile", "strategy", "draft max", "acceptance"),
    *("emulated tok/s", "simulated tok/s", "simulated/emulated", "late", "worst ms"),
)


class Found(NamedTuple):
    """One case, measured and predicted."""

    profile: str
    case: Case
    outcome: Outcome
    tokens_per_s: float  # simulated

    @property
    def ratio(self) -> float:
        return self.tokens_per_s / self.outcome.tokens_per_s

    def line(self) -> str:
        cells = (
            self.profile,
            self.case.strategy,
            "auto" if self.case.draft_max is None else self.case.draft_max or "",
            "" if self.case.draft_max == 0 else self.case.acceptance,
            f"{self.outcome.tokens_per_s:.2f}",
            f"{self.tokens_per_s:.2f}",
            f"{self.ratio:.3f}",
            f"{self.outcome.n_late} of {self.outcome.n_computed}",
            f"{self.outcome.worst_late_ms:.1f}",
        )
        return f"| {' | '.join(map(str, cells))} |"


def cases_of(args: argparse.Namespace) -> list[Case]:
    """Plain decoding once; the others for each draft length and acceptance."""
    seed, n_predict = args.seed, args.tokens
    found = [Case(strategy="iterative", draft_max=0, acceptance="1", n_predict=24, seed=seed)]
    for acceptance, strategy, draft_max in product(args.acceptance, args.strategy, args.draft_max):
        found.append(
            Case(
                strategy=strategy,
                draft_max=None if draft_max == "auto" else int(draft_max),
                acceptance=acceptance,
                n_predict=n_predict,
                seed=seed,
            )
        )
    return found


def simulated(profile: Profile, case: Case) -> Prediction:
    """As `pipeinfer simulate` does it."""
    acceptance = RandomAcceptance.parse(case.acceptance, case.seed)
    text = SyntheticText(acceptance=acceptance, seed=case.seed)
    config = SimulateConfig(
        profiles=(profile.name,),
        acceptance=(case.acceptance,),
        strategies=(case.strategy,),
        draft_max=(None if case.draft_max is None else case.draft_max or 1,),
        is_auto=case.draft_max is None,
        n_prompt=len(PROMPT),
        n_predict=case.n_predict,
        seed=case.seed,
    )
    (prediction,) = compare(Cluster(profile=profile, acceptance=case.acceptance, text=text), config)
    return prediction


@contextmanager
def started(launch: str, model: Path, profile: Profile) -> Iterator[subprocess.Popen[str]]:
    """The emulated cluster while the block runs."""
    program = Path(__file__).with_name("cluster.py")
    command = [
        *shlex.split(launch.format(profile.n_stages + 1)),
        *(sys.executable, str(program), str(model), profile.name),
    ]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        process.wait(START_S)
    finally:
        process.kill()
        process.wait()


def emulated(process: subprocess.Popen[str], case: Case) -> Outcome:
    """Has the cluster carry out a case, again if too much was late."""
    outcomes = []
    for _ in range(N_TRIES):
        outcomes.append(ask(process, case))
        if outcomes[-1].late_share <= MAX_LATE:
            break
    return min(outcomes, key=lambda each: each.late_share)


def ask(process: subprocess.Popen[str], case: Case) -> Outcome:
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None and stdout is not None
    stdin.write(json.dumps(dataclasses.asdict(case)) + "\n")
    stdin.flush()
    if not (line := stdout.readline()):
        sys.exit("the emulated cluster has ended early: see above")
    return Outcome(**json.loads(line))


def compare_all(args: argparse.Namespace, out: IO[str]) -> list[Found]:
    found = []
    print(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}", file=out, flush=True)
    for name in args.profiles:
        profile = profile_toml.load(name)
        with started(args.launch, args.model, profile) as process:
            for case in cases_of(args):
                outcome = emulated(process, case)
                prediction = simulated(profile, case)
                found.append(Found(name, case, outcome, prediction.tokens_per_s))
                print(found[-1].line(), file=out, flush=True)
    return found


def summary(found: list[Found]) -> Iterator[str]:
    """A line per profile, as Markdown."""
    yield "| profile | cases | simulated/emulated, median | from | to | cases that were late |"
    yield "|---|---|---|---|---|---|"
    for profile in dict.fromkeys(each.profile for each in found):
        cases = [each for each in found if each.profile == profile]
        ratios = [each.ratio for each in cases]
        n_late = sum(each.outcome.late_share > MAX_LATE for each in cases)
        shown = " | ".join(f"{ratio:.3f}" for ratio in (median(ratios), min(ratios), max(ratios)))
        yield f"| {profile} | {len(cases)} | {shown} | {n_late} |"


def words(text: str) -> list[str]:
    return text.split(",")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--launch", required=True)
    parser.add_argument("--profiles", type=words, default=profile_toml.names())
    parser.add_argument("--acceptance", type=words, default=words("0.3,0.5,0.66,0.79,0.9,0.95"))
    parser.add_argument("--strategy", type=words, default=words("speculative,pipeinfer"))
    parser.add_argument("--draft-max", type=words, default=words("4,auto"))
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    found = compare_all(parser.parse_args(), sys.stdout)
    worst = max(found, key=lambda each: abs(each.ratio - 1))
    off = [each for each in found if abs(each.ratio - 1) > TOLERANCE]
    print("", *summary(found), sep="\n")
    print(
        f"\n{len(found)} cases; largest deviation {worst.ratio - 1:+.1%}: {worst.profile}, "
        f"{worst.case.strategy}, draft max {worst.case.draft_max}, acceptance "
        f"{worst.case.acceptance}; {len(off)} off by more than {TOLERANCE:.0%}"
    )
    return 1 if off else 0


if __name__ == "__main__":
    sys.exit(main())
