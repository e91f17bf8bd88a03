"""How well a drafter's corrected probabilities predict which of its candidates are right.

    python benchmarks/confidence.py FOLDER [--candidates N] [--first N]

FOLDER has recordings, of `pipeinfer bench --record-acceptance` or benchmarks/acceptance.py. Their
positions are decided one after the other, as in a text. The table has the mean log loss, in nats,
of what is said of the best candidate and of the second: as the drafter states it, and corrected
with what the positions before have shown. Less is better.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Iterator
from operator import itemgetter
from pathlib import Path
from statistics import fmean

from pipeinfer_cli.cluster.acceptance import recording
from pipeinfer_cli.cluster.acceptance.recording import RecordedToken
from pipeinfer_cli.scheduler.interfaces import Candidate
from pipeinfer_cli.scheduler.policy import N_CANDIDATES
from pipeinfer_cli.scheduler.speculation.confidence import Confidence
from pipeinfer_cli.tables import Column, Markdown, Record, fitted, text_of

SUREST = 1 - 1e-4  # a probability of 1 that is wrong would have an infinite loss
Loss = tuple[float, float]  # as stated, as corrected


def loss(probability: float, is_right: bool) -> float:
    """Of one prediction, in nats."""
    said = probability if is_right else 1 - probability
    return -math.log(min(max(said, 1 - SUREST), SUREST))


def losses(tokens: Iterable[RecordedToken], n_candidates: int) -> Iterator[list[Loss]]:
    """Of each position with candidates: of the best one, and of the second if there is one."""
    confidence = Confidence()
    for token in tokens:
        candidates: list[Candidate] = list(enumerate(token.probabilities[:n_candidates]))
        if candidates:
            corrected = confidence.probabilities(candidates)
            yield [
                (loss(stated, rank == token.rank), loss(better, rank == token.rank))
                for (rank, stated), better in zip(candidates[:2], corrected, strict=False)
            ]
            confidence.on_decided(candidates, n_candidates if token.rank is None else token.rank)


def record(path: Path, n_candidates: int, n_first: int) -> Record:
    """A line of the table: figures by column."""
    found = recording.read(path)
    each = list(losses(found.tokens, n_candidates))
    best, second = ([pair[rank] for pair in each if len(pair) > rank] for rank in (0, 1))
    columns = {
        "best, stated": [stated for stated, _ in best],
        "corrected": [corrected for _, corrected in best],
        "at first": [corrected for _, corrected in best[:n_first]],
        "second, stated": [stated for stated, _ in second],
        "second, corrected": [corrected for _, corrected in second],
    }
    figures = {name: f"{fmean(column):.3f}" if column else "-" for name, column in columns.items()}
    return {"draft": path.stem, "first right": f"{found.rate:.2f}", **figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--candidates", type=int, default=N_CANDIDATES)
    parser.add_argument("--first", type=int, default=60, help="positions that are first ones")
    args = parser.parse_args()
    paths = sorted(args.folder.glob("*.json"))
    if not paths:
        sys.exit(f"{args.folder} has no recordings: make them by make bench-acceptance")
    records = [record(path, args.candidates, args.first) for path in paths]
    columns = [Column(name, itemgetter(name), numeric=name != "draft") for name in records[0]]
    print(text_of(Markdown(fitted(columns, records)), records), end="")


if __name__ == "__main__":
    main()
