"""Second choices of real drafters: recordings of pairs, and the table that simulations draw from.

    python benchmarks/acceptance.py MODEL.gguf FOLDER [--tokens N] [--temp T] [--drafts NAME,...]
        [--table FILE.json]

The target is MODEL as F32. Its drafts are made from it: weights with noise, layers left out, fewer
bits. Each is asked for candidates at each token of the same texts, as by `pipeinfer bench
--record-acceptance`; FOLDER gets the recordings, for `simulate --acceptance`. What is there already
is not made again; other texts need another folder. With a temperature texts are sampled, and so are
the candidates, with the same random numbers.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))

import numpy as np

from noisy_models import with_noise
from pipeinfer_cli.cluster.acceptance import recording
from pipeinfer_cli.cluster.acceptance.recording import MAX_CANDIDATES, Recording
from pipeinfer_cli.commands.bench import prompts
from pipeinfer_cli.commands.bench.post_run import recorded_tokens
from pipeinfer_cli.drafters.model import ModelDrafter
from pipeinfer_cli.models.derive import DeriveConfig, derive
from pipeinfer_cli.runtime.vocabulary import PlainPrompts, load_vocab
from pipeinfer_cli.scheduler.interfaces import candidates_after
from pipeinfer_cli.scheduler.runs import SampleParams

NOISE = (0.05, 0.1, 0.13, 0.15, 0.17, 0.2, 0.3)  # of the weights' standard deviation
LEFT_OUT = {
    "29-layers": (15,),
    "28-layers": (10, 20),
    "27-layers": (9, 16, 23),
    "24-layers": (7, 10, 13, 16, 19, 22),
}
FILE_TYPES = ("Q8_0", "Q4_0", "Q3_K_S")
N_TOKENS, N_CTX = 80, 1024
LEVELS = (0.0, 0.2, 0.43, 0.58, 0.72, 0.85, 0.96)  # between them, recordings are alike
N_BINS, N_PRIOR = 8, 10  # of a level; misses that a bin borrows from its level
EDGES = (0, 0.2, 0.4, 0.6, 0.8, 0.95, 1.01)
FLAT_LIST = re.compile(r"\[[^][{}]*\]")

Texts = list[tuple[list[int], list[int]]]  # prompts, and what the target says


def target_of(model: Path, folder: Path) -> Path:
    """MODEL as F32: fewer bits of it are those of drafts."""
    path = folder / "target.gguf"
    if not path.exists():
        derive(DeriveConfig(model=model, target=path, file_type="F32", n_threads=2))
    return path


def drafts(model: Path, target: Path, folder: Path) -> Iterator[tuple[Path, Callable[[], Path]]]:
    """Files, and how each is made."""
    for share in NOISE:
        path = folder / f"noise-{share}.gguf"
        yield path, partial(with_noise, target, path, share)
    for name, left_out in LEFT_OUT.items():
        path = folder / f"{name}.gguf"
        yield path, partial(derive, DeriveConfig(model=model, target=path, left_out=left_out))
    for file_type in FILE_TYPES:
        path = folder / f"{file_type}.gguf"
        config = DeriveConfig(model=target, target=path, file_type=file_type, n_threads=2)
        yield path, partial(derive, config)


def texts_of(target: Path, n_tokens: int, sample: SampleParams) -> Texts:
    """Of the prompts that bench has."""
    plain = PlainPrompts(load_vocab(target, verbose=False))
    model = ModelDrafter(target, n_ctx=N_CTX, sample=sample)  # its best candidates are its text
    found = []
    for prompt in prompts.load(None):
        tokens = list(plain.tokens(prompt.text))
        text = list(tokens)
        while len(text) < len(tokens) + n_tokens:
            text.append(candidates_after(model, text, 1)[0][0])
        found.append((tokens, text[len(tokens) :]))
    model.close()
    return found


def record(draft: Path, target: Path, texts: Texts, sample: SampleParams) -> Recording:
    """What a draft model proposes for all tokens of the texts."""
    drafter = ModelDrafter(draft, n_ctx=N_CTX, sample=sample)
    tokens = [token for each in texts for token in recorded_tokens(drafter, *each)]
    drafter.close()
    return Recording(
        target=target.name, drafter="model", draft_model=draft.name, tokens=tuple(tokens)
    )


def claim(note: Path, what: str) -> None:
    """The folder's recordings are of such texts, and of no others."""
    if note.exists() and (there := note.read_text()) != what:
        raise SystemExit(f"{note.parent} has recordings of {there.strip()}: give another folder")
    note.write_text(what)


def recordings(
    model: Path, folder: Path, n_tokens: int, sample: SampleParams, names: Sequence[str]
) -> Iterator[Recording]:
    """Of all pairs, or of these drafts; of FOLDER where they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    claim(folder / "texts.txt", f"{n_tokens} tokens, temperature {sample.temperature:g}\n")
    target = target_of(model, folder)
    texts: Texts = []
    for draft, make in drafts(model, target, folder):
        if names and draft.stem not in names:
            continue
        path = draft.with_suffix(".json")
        if not path.exists():
            texts = texts or texts_of(target, n_tokens, sample)
            draft.unlink(missing_ok=True)  # of a run that was interrupted
            record(make(), target, texts, sample).write(path)
            draft.unlink()  # some are large
        yield recording.read(path)


def levels(found: Sequence[Recording]) -> Iterator[list[Recording]]:
    """Recordings of about the same acceptance, for those acceptances at which there are some."""
    for low, high in pairwise(LEVELS):
        if level := [each for each in found if low <= each.rate < high]:
            yield level


def shares(ranks: Sequence[int | None], prior: Sequence[float], weight: float) -> list[float]:
    """Of the misses, where the right candidate was; some misses more are as the prior says."""
    missed = [rank for rank in ranks if rank != 0]
    counts = Counter(missed)
    return [
        (counts[rank] + weight * share) / (len(missed) + weight)
        for rank, share in enumerate(prior, start=1)
    ]


def level_fields(level: Sequence[Recording]) -> dict[str, Any]:
    """A level of candidates.json: bins of as many positions each, by the first's probability."""
    tokens = sorted(
        (token for each in level for token in each.tokens if token.probabilities),
        key=lambda token: token.probabilities[0],
    )
    ranks = [token.rank for token in tokens]
    misses = shares(ranks, [0.0] * (MAX_CANDIDATES - 1), 0)
    bins: list[dict[str, Any]] = []
    surest = 0.0
    for part in np.array_split(np.arange(len(tokens)), N_BINS):
        among = [tokens[i] for i in part]
        columns = zip(*(token.probabilities for token in among), strict=True)
        n_right = sum(token.rank == 0 for token in among)
        surest = max(surest, n_right / len(among))  # it falls by chance only
        bins.append(
            {
                "weight": rounded(len(among) / len(tokens)),
                "stated": [rounded(sum(column) / len(among)) for column in columns],
                "right": rounded(surest),
                "misses": list(map(rounded, shares([t.rank for t in among], misses, N_PRIOR))),
            }
        )
    rate = sum(each["weight"] * each["right"] for each in bins)
    return {"rate": rounded(rate), "misses": list(map(rounded, misses)), "bins": bins}


def rounded(value: float) -> float:
    return round(float(value), 4)


def lines(found: Sequence[Recording]) -> Iterator[str]:
    """Per pair: acceptance, where misses are found, and by the first's probability how many hit."""
    edges = [f"{low:g}-{high:g}" for low, high in pairwise(EDGES)]
    columns = ["draft", "first right", "stated", "of misses: 2nd", "3rd", "4th to 8th", *edges]
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    for each in found:
        missed = [token.rank for token in each.tokens if token.rank != 0]
        parts = [[1], [2], range(3, MAX_CANDIDATES)]
        where = [sum(rank in part for rank in missed) / max(len(missed), 1) for part in parts]
        stated = fmean(token.probabilities[0] for token in each.tokens)
        cells = [f"{each.rate:.2f}", f"{stated:.2f}", *(f"{share:.2f}" for share in where)]
        for low, high in pairwise(EDGES):
            among = [t.rank == 0 for t in each.tokens if low <= t.probabilities[0] < high]
            cells.append(f"{fmean(among):.2f} ({len(among)})" if among else "")
        yield f"| {Path(each.draft_model).stem} | {' | '.join(cells)} |"


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokens", type=int, default=N_TOKENS, help="for each prompt")
    parser.add_argument("--temp", type=float, default=0.0, help="0: greedy texts")
    parser.add_argument("--drafts", type=lambda text: text.split(","), default=[], help="all")
    parser.add_argument("--table", type=Path, help="write the table that simulate draws from")
    options = parser.parse_args(arguments)
    sample = SampleParams(temperature=options.temp)
    found = []
    for each in recordings(options.model, options.folder, options.tokens, sample, options.drafts):
        print(f"{each.draft_model}: {each.rate:.3f}", file=sys.stderr, flush=True)
        found.append(each)
    found.sort(key=lambda each: each.rate)
    print("\n".join(lines(found)))
    if options.table is not None:
        table = json.dumps([level_fields(level) for level in levels(found)], indent=1)
        options.table.write_text(FLAT_LIST.sub(lambda m: " ".join(m[0].split()), table) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
