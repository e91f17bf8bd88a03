"""How long commands take from their start to the first token, and to their end.

python benchmarks/startup.py --model 30=SMALL.gguf --model 120=DEEP.gguf --ranks 1,2,3 \
    --pipeinfer ours=.venv/bin/pipeinfer --llama-completion PATH

All commands run once per round, in rotating order, so that background load affects all of them
alike; the files are in the page cache after a first round, which is not counted. Figures are
seconds: median (minimum to maximum).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

PROMPT = "Once upon a time, in a small village by the sea,"
LIGHT = (("--help",), ("--version",), ("models", "list"), ("doctor",))


@dataclass(kw_only=True)
class Case:
    """A command, and its times in seconds."""

    name: str
    command: Sequence[str]
    has_text: bool  # its first output is the first token
    first_s: list[float] = field(default_factory=list)
    end_s: list[float] = field(default_factory=list)

    def run(self) -> tuple[float, float]:
        """Seconds to the first byte on stdout, and to the end. Ends this program on a failure."""
        start_s = time.perf_counter()
        with subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None and process.stderr is not None
            os.read(process.stdout.fileno(), 1)
            first_s = time.perf_counter() - start_s
            _, err = process.communicate()
            end_s = time.perf_counter() - start_s
        if process.returncode != 0:
            sys.exit(f"{' '.join(self.command)}: exit code {process.returncode}: {err.decode()}")
        return first_s, end_s

    def row(self) -> str:
        """A line of the table."""
        first = spread(self.first_s) if self.has_text else "-"
        return f"| {self.name} | {first} | {spread(self.end_s)} |"


def spread(times_s: Sequence[float]) -> str:
    """Median, minimum and maximum."""
    return f"{statistics.median(times_s):.3f} ({min(times_s):.3f} to {max(times_s):.3f})"


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """What is to be measured."""
    models = [each.split("=", 1) for each in options.model]
    for name, program in (each.split("=", 1) for each in options.pipeinfer):
        for light in LIGHT:
            yield Case(name=f"{name}: {' '.join(light)}", command=[program, *light], has_text=False)
        for label, path in models:
            for ranks in options.ranks.split(","):
                command = [program, "generate", "-m", path, "--ranks", ranks, "-n", "1"]
                yield Case(
                    name=f"{name}: {label}, {ranks} rank(s)",
                    command=[*command, "-t", str(options.threads), PROMPT],
                    has_text=True,
                )
    if options.llama_completion:
        for label, path in models:
            command = [options.llama_completion, "-m", path, "-no-cnv", "--no-display-prompt"]
            yield Case(
                name=f"llama-completion: {label}",
                command=[*command, "-n", "1", "-t", str(options.threads), "-p", PROMPT],
                has_text=True,
            )


def main() -> None:
    """Measures all cases and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", default=[], metavar="NAME=GGUF")
    parser.add_argument("--pipeinfer", action="append", default=[], metavar="NAME=PROGRAM")
    parser.add_argument("--llama-completion", metavar="PROGRAM", help="the unpatched tool")
    parser.add_argument("--ranks", default="1,2,3")
    parser.add_argument("--threads", type=int, default=1, help="of each rank")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    found = list(cases(options))
    for turn in range(-1, options.rounds):
        shift = turn % len(found)
        for case in (*found[shift:], *found[:shift]):
            first_s, end_s = case.run()
            if turn >= 0:
                case.first_s.append(first_s)
                case.end_s.append(end_s)
    print("| command | first token, s | end, s |\n|---|---|---|")
    for case in found:
        print(case.row())


if __name__ == "__main__":
    main()
