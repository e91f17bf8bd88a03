"""Measures `pipeinfer` beside llama.cpp's own programs, and prints Markdown tables or JSON.

make bench-beside BESIDE="--parts plain,draft --threads 1,2 --types F16,Q4_0 --rounds 5"
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from beside import load, machine, models, report, tools
from beside.contest import Contest
from beside.parts import PARTS, Setup
from beside.process import BenchmarkError

TOOLS = models.BUILD / "tools" / "bin"


def main() -> int:
    """Command line; returns the exit code."""
    args = _arguments()
    setup = Setup(
        pipeinfer=str(Path(sys.executable).with_name("pipeinfer")),
        tools=args.tools,
        threads=tuple(args.threads),
        types=tuple(args.types),
        models=tuple(args.models),
        drafts=tuple(args.drafts),
        prompt_lengths=tuple(args.prompt_lengths),
        n_predict=args.n_predict,
    )
    try:
        tools.check(setup.tools)
        with load.background(args.load):
            _measure(setup, args.parts, args.rounds, only=args.only, is_json=args.output == "json")
    except BenchmarkError as error:
        print(f"beside: {error}", file=sys.stderr)
        return 1
    return 0


def _measure(
    setup: Setup, parts: list[str], n_rounds: int, *, only: re.Pattern[str] | None, is_json: bool
) -> None:
    """All contests of the parts, a table after each part."""
    begin = machine.load_average()
    results: list[dict[str, Any]] = []
    if not is_json:
        print(f"{machine.describe()}; {n_rounds} rounds.\n\n{report.HEAD}", flush=True)
    for part in parts:
        contests: list[Contest] = []
        for contest in PARTS[part](setup):
            if only is not None:
                contest.keep_only(only)
            if contest.contenders:
                contest.hold(n_rounds)
                contests.append(contest)
        results += [report.as_json(part, each) for each in contests]
        if not is_json:
            print(report.table(part, contests), flush=True)
    loads = (begin, machine.load_average())
    if is_json:
        facts = {"machine": machine.describe(), "load_average": loads, "rounds": n_rounds}
        print(json.dumps({**facts, "contests": results}, indent=1))
    else:
        print(f"\nLoad average at the begin {loads[0]:.2f}, at the end {loads[1]:.2f}.")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="beside", description=(__doc__ or "").splitlines()[0])
    names = parser.add_argument
    names("--parts", type=_names(tuple(PARTS)), default=list(PARTS), help=",".join(PARTS))
    names("--models", type=_names(("wide", "deep")), default=["wide", "deep"], help="wide,deep")
    names("--types", type=_names(models.TYPES), default=list(models.TYPES))
    names("--drafts", type=_names(models.DRAFTS), default=list(models.DRAFTS))
    names("--threads", type=_counts, default=[1, 2], help="1,2")
    names("--prompt-lengths", type=_counts, default=[512, 1942], help="tokens")
    names("-n", "--n-predict", type=_count, default=128, help="tokens to generate")
    names("--only", type=re.compile, metavar="REGEX", help="contenders to measure, by name")
    names("--rounds", type=_count, default=5)
    names("--load", type=_share, default=0.0, help="of one core, taken by another process: 0 to 1")
    names("--tools", type=Path, default=TOOLS, help="folder of llama.cpp's programs")
    names("-o", "--output", choices=("md", "json"), default="md")
    return parser.parse_args()


def _names(known: tuple[str, ...]) -> Any:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r}: use some of {','.join(known)}")
        return names

    return parse


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: must be from 0 to 1")
    return value


def _counts(text: str) -> list[int]:
    return [_count(part) for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
