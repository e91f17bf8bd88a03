"""What `pipeinfer` chooses for itself against settings chosen by hand in hindsight: simulated.

    python benchmarks/choices.py [--stages 4,8,15,31] [--profiles ...] [--draft-ratio 0.1,0.25] ...

For each cluster and acceptance all strategies write the same text: plain decoding, the best
synchronous speculation (of a grid of chains and trees, and of what `speculative` chooses for
itself, with batched drafts), the best of a grid of asynchronous settings, and `pipeinfer` as it
comes. Prints a Markdown table and a summary.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from itertools import product
from multiprocessing import Pool
from statistics import median
from typing import NamedTuple, TypeVar

from pipeinfer_cli.cluster.simulate import Prediction, SimulateConfig, predictions

LENGTHS, WIDTHS, CUTOFFS, P_SPLIT = (2, 4, 8, 16), (1, 2, 3), (0.0, 0.4), 0.05
Value = TypeVar("Value")


class Case(NamedTuple):
    """A cluster, and how good its drafter is."""

    profile: str
    n_stages: int
    draft_ratio: float
    acceptance: str
    n_predict: int
    seed: int


class Row(NamedTuple):
    """Tokens per second."""

    case: Case
    iterative: float
    synchronous: float  # the best
    by_hand: float  # the best asynchronous one
    setting: str  # of that
    ours: float
    utilisation: float  # of the stages, with ours
    drafter_busy: float

    def line(self) -> str:
        case = self.case
        cells = (
            *(case.profile, case.n_stages, case.draft_ratio, case.acceptance),
            *(f"{self.iterative:.2f}", f"{self.synchronous:.2f}", f"{self.by_hand:.2f}"),
            *(self.setting, f"{self.ours:.2f}", f"{self.ours / self.by_hand:.2f}"),
            *(f"{self.ours / self.synchronous:.2f}", f"{self.ours / self.iterative:.2f}"),
            *(f"{self.utilisation:.0%}", f"{self.drafter_busy:.0%}"),
        )
        return f"| {' | '.join(map(str, cells))} |"


HEADINGS = (
    *("profile", "stages", "draft/stage", "acceptance", "iterative", "best synchronous"),
    *("best by hand", "length, width, cutoff", "pipeinfer", "/ by hand", "/ synchronous"),
    *("/ iterative", "stages busy", "drafter busy"),
)


def run(case: Case) -> Row:
    """All strategies on one cluster."""
    own = predictions(_config(case, strategies=("iterative", "speculative", "pipeinfer")))
    iterative, speculative, ours = own
    grid = predictions(
        _config(
            case,
            strategies=("speculative", "pipeinfer"),
            draft_max=LENGTHS,
            draft_width=WIDTHS,
            draft_p_min=CUTOFFS,
            draft_p_split=(P_SPLIT,),
            is_auto=False,
        )
    )
    by_hand = max((each for each in grid if each.strategy == "pipeinfer"), key=_speed)
    synchronous = max(
        (speculative, *(each for each in grid if each.strategy == "speculative")), key=_speed
    )
    return Row(
        case=case,
        iterative=iterative.tokens_per_s,
        synchronous=synchronous.tokens_per_s,
        by_hand=by_hand.tokens_per_s,
        setting=f"{by_hand.draft_max}, {by_hand.draft_width}, {by_hand.draft_p_min:g}",
        ours=ours.tokens_per_s,
        utilisation=ours.utilisation,
        drafter_busy=ours.drafter_busy,
    )


def _config(case: Case, **others: object) -> SimulateConfig:
    return SimulateConfig(
        profiles=(case.profile,),
        stages=(case.n_stages,),
        acceptance=(case.acceptance,),
        draft_ratio=case.draft_ratio,
        n_predict=case.n_predict,
        seed=case.seed,
        **others,  # type: ignore[arg-type]
    )


def _speed(prediction: Prediction) -> float:
    return prediction.tokens_per_s


def summary(rows: list[Row]) -> Iterator[str]:
    """By profile and acceptance, over all clusters."""
    yield "| profile | acceptance | / by hand, least | median | / synchronous, least | median |"
    yield "|---|---|---|---|---|---|"
    for key in dict.fromkeys((each.case.profile, each.case.acceptance) for each in rows):
        found = [each for each in rows if (each.case.profile, each.case.acceptance) == key]
        by_hand = [each.ours / each.by_hand for each in found]
        synchronous = [each.ours / each.synchronous for each in found]
        shown = (f"{f(each):.2f}" for each in (by_hand, synchronous) for f in (min, median))
        yield f"| {' | '.join((*key, *shown))} |"


def listed(kind: Callable[[str], Value]) -> Callable[[str], list[Value]]:
    return lambda text: [kind(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stages", type=listed(int), default=[4, 8, 15, 31])
    parser.add_argument(
        "--profiles", type=listed(str), default=["cpu70b-8-ib", "flat-8", "xeon70b-8"]
    )
    parser.add_argument("--draft-ratio", type=listed(float), default=[0.1, 0.25])
    parser.add_argument(
        "--acceptance",
        type=listed(str),
        default=["0.5:informed", "0.66:informed", "0.79:informed", "0.9:informed"],
    )
    parser.add_argument("--tokens", type=int, default=384)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    cases = [
        Case(profile, n_stages, ratio, acceptance, args.tokens, args.seed)
        for profile, n_stages, ratio, acceptance in product(
            args.profiles, args.stages, args.draft_ratio, args.acceptance
        )
    ]
    print(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}", flush=True)
    rows = []
    with Pool(args.processes) as pool:
        for row in pool.imap(run, cases):
            rows.append(row)
            print(row.line(), flush=True)
    print("", *summary(rows), sep="\n")


if __name__ == "__main__":
    main()
