"""What a batch of m nodes of a token tree costs a draft model, against one node at a time.

    python benchmarks/draft.py MODEL.gguf [--threads 1,2] [--nodes 1,2,4,8,16,32] [--rounds 15]

The nodes are tokens after a text that is in the KV cache, each a branch of its own. In each round
the text grows by a token, and all numbers of nodes get their turn, as a batch and one by one. Times
are medians of the rounds, ratios those of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from pipeinfer_cli.drafters.model import ModelDrafter
from pipeinfer_cli.engine.config import DraftCores
from pipeinfer_cli.scheduler.interfaces import Branch, DraftBatch

N_CANDIDATES = 4
N_SAFE = 1000  # ids below are in any vocabulary


class Bench:
    """A draft model that has read a text."""

    def __init__(self, path: Path, n_threads: int, n_text: int, n_ctx: int) -> None:
        cores = DraftCores(n_threads=n_threads, has_own_cores=True)
        self._drafter = ModelDrafter(path, n_ctx=n_ctx, cores=cores)
        self._random = random.Random(1)
        self._text = [self._random.randrange(N_SAFE) for _ in range(n_text)]
        self._ask([()])

    def grow(self) -> None:
        """The text has a token more; what was drafted is not of it."""
        self._text.append(N_SAFE)
        self._ask([()])

    def seconds(self, n_nodes: int) -> tuple[float, float]:
        """For this number of new nodes at once, and for as many one by one."""
        tokens = self._random.sample(range(N_SAFE), 2 * n_nodes)
        branches: list[Branch] = [(token,) for token in tokens]
        batch_s = self._ask(branches[:n_nodes])
        return batch_s, sum(self._ask([each]) for each in branches[n_nodes:])

    def _ask(self, branches: Sequence[Branch]) -> float:
        batch = DraftBatch(0, self._text, len(self._text), tuple(branches), N_CANDIDATES)
        start_s = time.perf_counter()
        answers = self._drafter.expand(batch, lambda: True)
        assert answers is not None and all(answers)
        return time.perf_counter() - start_s

    def close(self) -> None:
        self._drafter.close()


Times = dict[int, list[tuple[float, float]]]  # by number of nodes: each round's seconds


def measure(bench: Bench, sizes: Sequence[int], n_rounds: int) -> Times:
    """As a batch, and one by one."""
    found: Times = {size: [] for size in sizes}
    for index in range(n_rounds):
        for size in (*sizes[index % len(sizes) :], *sizes[: index % len(sizes)]):
            bench.grow()
            found[size].append(bench.seconds(size))
    return found


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=numbers, default=[1, 2])
    parser.add_argument("--nodes", type=numbers, default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--text", type=int, default=256, help="tokens before the first node")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    n_ctx = args.text + args.rounds * len(args.nodes) + 8
    print("| threads | nodes | batch, ms | one by one, ms | one by one / batch | T(m)/T(1) |")
    print("|---|---|---|---|---|---|")
    for n_threads in args.threads:
        bench = Bench(args.model, n_threads, args.text, n_ctx)
        found = measure(bench, args.nodes, args.rounds)
        bench.close()
        first_s = median(each[0] for each in found[args.nodes[0]])
        for size, times in found.items():
            batch_s, single_s = (median(each[way] for each in times) for way in (0, 1))
            ratio = median(single / batch for batch, single in times)
            print(
                f"| {n_threads} | {size} | {1e3 * batch_s:.2f} | {1e3 * single_s:.2f} "
                f"| {ratio:.2f} | {batch_s / first_s:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
