"""A batch with 1, 2, 4, 8 prompts at a time in the pipeline: tokens/s, and that lines are the same.

    python benchmarks/parallel.py MODEL.gguf [--ranks 2] [--parallel 1,2,4,8] [--rounds 3]
        [--items 24] [-n 32] [--strategy iterative]

Each round runs the whole command once for each number, in an order that changes from round to
round. Loading is not measured. The ratio is the median of the rounds' ratios to the first number.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from importlib import resources
from pathlib import Path
from statistics import median

SPEED = re.compile(r"([0-9.]+) tokens/s")


def write_items(path: Path, n_items: int) -> None:
    """The prompts of bench, again and again, with a number before each."""
    source = resources.files("pipeinfer_cli.commands.bench").joinpath("prompts.jsonl")
    texts = [json.loads(line)["text"] for line in source.read_text("utf-8").splitlines()]
    items = [{"prompt": f"{i}. {texts[i % len(texts)]}"} for i in range(n_items)]
    path.write_text("".join(json.dumps(item) + "\n" for item in items))


def run(model: str, prompts: Path, output: Path, options: list[str]) -> float:
    """Tokens/s of one call."""
    command = [str(Path(sys.executable).with_name("pipeinfer")), "generate", "-m", model, "-t", "1"]
    files = ["--prompts", str(prompts), "--output", str(output)]
    more = ["--stats", "--ignore-eos", "-c", "1024"]
    done = subprocess.run(
        [*command, *files, *more, *options], stderr=subprocess.PIPE, text=True, check=True
    )
    found = SPEED.search(done.stderr)
    assert found, done.stderr
    return float(found[1])


def texts(output: Path) -> list[str]:
    return [json.loads(line)["text"] for line in output.read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--ranks", default="2")
    parser.add_argument("--parallel", default="1,2,4,8")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--items", type=int, default=24)
    parser.add_argument("-n", default="32")
    parser.add_argument("--strategy", default="iterative")
    args = parser.parse_args()
    numbers = args.parallel.split(",")
    speeds: dict[str, list[float]] = {number: [] for number in numbers}
    seen = None
    with tempfile.TemporaryDirectory() as folder:
        prompts = Path(folder) / "in.jsonl"
        write_items(prompts, args.items)
        for index in range(args.rounds):
            for number in numbers if index % 2 == 0 else reversed(numbers):
                output = Path(folder) / f"{index}-{number}.jsonl"
                options = ["--ranks", args.ranks, "-n", args.n, "--strategy", args.strategy]
                speeds[number].append(
                    run(args.model, prompts, output, [*options, "--parallel", number])
                )
                seen = seen or texts(output)
                assert texts(output) == seen, f"--parallel {number} writes other texts"
    print(f"{args.items} prompts, {args.ranks} ranks, {args.strategy}; all texts are the same")
    for number, each in speeds.items():
        ratio = median(a / b for a, b in zip(each, speeds[numbers[0]], strict=True))
        print(f"--parallel {number:2s} {median(each):8.2f} tokens/s  ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
