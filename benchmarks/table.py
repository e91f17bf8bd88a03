"""The tables of docs/benchmarks.md, as Markdown, each below the commands that it comes from.

    python benchmarks/table.py PIPEINFER [--tables strategies,networks] [--stages 4,8,15]
    python benchmarks/table.py PIPEINFER --emulate MODEL.gguf --tables strategies --stages 8

PIPEINFER is the command. The first form simulates, in minutes; the second one emulates, which
takes as long as the texts take on the clusters: some 3 minutes for each number of stages, without
the grid of synchronous settings.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

Row = dict[str, Any]

ACCEPTANCE = ("0.5", "0.66", "0.79", "0.9")
INFORMED = tuple(f"{rate}:informed" for rate in ACCEPTANCE)
# Of speculative's drafts: the best at each acceptance counts, and what it chooses itself.
TREES = ("--draft-max", "2,4,8,16", "--draft-width", "1,3", "--draft-p-min", "0,0.4")
CHAIN = ("--draft-max", "8")
TARGETS = dict(zip(INFORMED, (1.45, 1.60, 1.75, 2.40), strict=True))  # at 8 stages
PARTS = ("no-continuous", "no-cancel", "no-reactive")
QUARTER = ("--draft-ratio", "0.25")
N_SIMULATED, N_EMULATED = "1000", "96"  # tokens
PROMPT = os.path.relpath(Path(__file__).with_name("prompt.txt"))


class Source(Protocol):
    """Where speeds come from."""

    shown: list[str]  # commands
    is_fast: bool  # enough for a grid of settings

    def rows(self, profile: str, strategies: str, *options: str, rates: Sequence[str]) -> list[Row]:
        """Strategies on a profile. Keys: strategy, rate, draft_max, draft_width, tps, n_late."""


class Simulated:
    """By `pipeinfer simulate`."""

    is_fast = True

    def __init__(self, program: str) -> None:
        self.shown: list[str] = []
        self._program = program

    def rows(self, profile: str, strategies: str, *options: str, rates: Sequence[str]) -> list[Row]:
        rows = run(
            *(self._program, self.shown, "simulate", "--profile", profile),
            *("--acceptance", ",".join(rates), "--strategy", strategies),
            *("-n", N_SIMULATED, *options),
        )
        return [
            {**row, "rate": row["acceptance"], "tps": row["tokens_per_s"], "n_late": 0}
            for row in rows
        ]


class Emulated:
    """By `pipeinfer bench --emulate`, on the ranks of this machine."""

    is_fast = False

    def __init__(self, program: str, model: str) -> None:
        self.shown: list[str] = []
        self._program, self._model = program, model

    def rows(self, profile: str, strategies: str, *options: str, rates: Sequence[str]) -> list[Row]:
        rows = run(
            *(self._program, self.shown, "bench", "-m", self._model, "--emulate", profile),
            *("--synth-acceptance", ",".join(rates), "--strategy", strategies),
            *("-n", N_EMULATED, *options),
            *("-p", PROMPT, "--seed", "1", "-t", "1", "-r", "1", "--no-warmup"),
        )
        return [{**row, "rate": row["synth_acceptance"], "tps": row["median_ts"]} for row in rows]


def run(program: str, shown: list[str], *options: str) -> list[Row]:
    """What a command prints as JSON."""
    shown.append(f"pipeinfer {' '.join(options)}")
    command = [program, *options, "-o", "json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    rows: list[Row] = json.loads(done.stdout)
    return rows


def best(rows: Sequence[Row], strategy: str, rate: str) -> Row:
    """The fastest of a strategy's rows at an acceptance."""
    found = [row for row in rows if (row["strategy"], row["rate"]) == (strategy, rate)]
    return max(found, key=lambda row: float(row["tps"]))


def setting(row: Row) -> str:
    """Length and width of drafts."""
    is_chosen = row["draft_max"] in (None, "auto")
    return "auto" if is_chosen else f"{row['draft_max']}, {row['draft_width']}"


def strategies(source: Source, stages: Sequence[str]) -> Iterator[Sequence[Any]]:
    """Strategies, tokens/s; a drafted token takes a quarter of a stage's time"""
    yield (
        *("stages", "acceptance", "iterative", "best speculative (length, width)", "pipeinfer"),
        *("x iterative", "x speculative", "asked for", "late"),
    )
    for n_stages in stages:
        profile = f"cpu70b-{n_stages}-ib"
        rows = source.rows(profile, "iterative,speculative,pipeinfer", *QUARTER, rates=INFORMED)
        if source.is_fast:
            rows += source.rows(profile, "speculative", *QUARTER, *TREES, rates=INFORMED)
        for rate in INFORMED:
            plain, ours = best(rows, "iterative", rate), best(rows, "pipeinfer", rate)
            tuned = best(rows, "speculative", rate)
            yield (
                *(n_stages, rate, f"{plain['tps']:.2f}"),
                f"{tuned['tps']:.2f} ({setting(tuned)})",
                *(f"{ours['tps']:.2f}", f"{ours['tps'] / plain['tps']:.2f}"),
                f"**{ours['tps'] / tuned['tps']:.2f}**",
                f"{TARGETS[rate]:.2f}" if n_stages == "8" else "",
                sum(row["n_late"] for row in (plain, tuned, ours)),
            )


def ablations(source: Source, stages: Sequence[str]) -> Iterator[Sequence[Any]]:
    """`pipeinfer:paper` without a part of it: the speed over that of the whole"""
    yield ("stages", "acceptance", "pipeinfer:paper, tok/s", *PARTS)
    names = ["pipeinfer:paper", *(f"pipeinfer:{part}" for part in PARTS)]
    for n_stages in stages:
        for rates in (ACCEPTANCE, INFORMED):
            rows = source.rows(
                f"cpu70b-{n_stages}-ib", ",".join(names), *CHAIN, *QUARTER, rates=rates
            )
            for rate in rates:
                whole, *others = (float(best(rows, name, rate)["tps"]) for name in names)
                yield (n_stages, rate, f"{whole:.2f}", *(f"{each / whole:.2f}" for each in others))


def networks(source: Source, stages: Sequence[str]) -> Iterator[Sequence[Any]]:
    """InfiniBand → Gigabit Ethernet, tokens/s"""
    names = ("iterative", "speculative", "pipeinfer")
    yield ("stages", "acceptance", *names)
    for n_stages in stages:
        found = [
            source.rows(profile, ",".join(names), *QUARTER, rates=INFORMED)
            for profile in (f"cpu70b-{n_stages}-ib", f"cpu70b-{n_stages}-gbe")
        ]
        for rate in INFORMED:
            pairs = [[float(best(rows, name, rate)["tps"]) for rows in found] for name in names]
            lost = (f"{ib:.2f} → {gbe:.2f} ({gbe / ib - 1:+.1%})" for ib, gbe in pairs)
            yield (n_stages, rate, *lost)


TABLES = {each.__name__: each for each in (strategies, ablations, networks)}


def words(text: str) -> list[str]:
    return text.split(",")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--emulate", metavar="MODEL")
    parser.add_argument("--tables", type=words, default=list(TABLES))
    parser.add_argument("--stages", type=words, default=["4", "8", "15"])
    args = parser.parse_args()
    for name in args.tables:
        table = TABLES[name]
        source = Emulated(args.program, args.emulate) if args.emulate else Simulated(args.program)
        headings, *rows = table(source, args.stages)
        lines = [" | ".join(map(str, row)) for row in (headings, ["---"] * len(headings), *rows)]
        print(f"\n### {table.__doc__}\n\n```sh", *source.shown, "```\n", sep="\n")
        print(*(f"| {line} |" for line in lines), sep="\n", flush=True)


if __name__ == "__main__":
    main()
