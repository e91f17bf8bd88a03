"""Strategies and drafters against plain decoding, in turn, through one pipeline.

    mpiexec -n RANKS python benchmarks/strategies.py MODEL.gguf DRAFT.gguf [n_predict] [rounds]

Rank 0 is the head, with layers unless it runs the draft model (as in `pipeinfer generate`). Every
round decodes a prompt with each pair of strategy and drafter; `ratio` is the median over the rounds
of its tokens/s over those of `iterative` in the same round. `wrong` is an adversary that is never
right, `random` is right seven times out of ten; both know the text and cost nothing.
"""

from __future__ import annotations

import itertools
import sys
import time
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

TESTS = Path(__file__).parents[1] / "tests"
sys.path += [str(TESTS / "helpers"), str(TESTS / "mpi")]

from guessers import make_guesser  # type: ignore[import-not-found]  # noqa: E402

from pipeinfer_cli.drafters.thread import DraftThread  # noqa: E402
from pipeinfer_cli.engine import llama_cpp  # noqa: E402
from pipeinfer_cli.engine.engine import Engine  # noqa: E402
from pipeinfer_cli.engine.vocab import Vocab  # noqa: E402
from pipeinfer_cli.launch import mpi  # noqa: E402
from pipeinfer_cli.runtime.text.token_stream import TokenStream  # noqa: E402
from pipeinfer_cli.scheduler.auto import AutoSpeculation  # noqa: E402
from pipeinfer_cli.scheduler.kv_sequences import SequencePool  # noqa: E402
from pipeinfer_cli.scheduler.metrics import RequestInfo, measure  # noqa: E402
from pipeinfer_cli.scheduler.policy import DraftConfig, Policy  # noqa: E402
from pipeinfer_cli.scheduler.scheduler import Scheduler  # noqa: E402
from rank_engine import drive, rank_config  # noqa: E402
from support import PROMPTS  # noqa: E402

N_CTX = 1024
N_BATCH = 32
PAIRS = [
    ("iterative", "none"),
    ("speculative", "wrong"),
    ("pipeinfer", "wrong"),
    ("auto", "wrong"),
    ("speculative", "random"),
    ("pipeinfer", "random"),
    ("auto", "random"),
    ("auto", "ngram"),
    ("speculative", "model"),
    ("pipeinfer", "model"),
    ("auto", "model"),
]


def main() -> None:
    model, draft = Path(sys.argv[1]), Path(sys.argv[2])
    n_predict = int(sys.argv[3]) if len(sys.argv) > 3 else 128
    n_rounds = int(sys.argv[4]) if len(sys.argv) > 4 else 3
    comm = mpi.start()
    llama_cpp.capture_log()
    weights = None if comm.size < 3 else [0.0] + [1.0] * (comm.size - 1)
    config = rank_config(comm, model, n_ctx=N_CTX, n_batch=N_BATCH, weights=weights)
    n_stages = comm.size - config.stage_rank0
    drive(comm, config, lambda engine: compare(engine, model, draft, n_predict, n_rounds, n_stages))


def compare(
    engine: Engine, model: Path, draft: Path, n_predict: int, n_rounds: int, n_stages: int
) -> None:
    prompts = [Vocab(model).tokenize(text) for text in PROMPTS[:n_rounds]]
    run_ids, pool = itertools.count(1), SequencePool()
    rates: dict[tuple[str, str], list[float]] = {pair: [] for pair in PAIRS}
    lines = {}
    for prompt in prompts:
        truth: list[int] = []
        for pair in PAIRS:
            request = {"draft_model": str(draft), "n_ctx": N_CTX}
            ids = (run_ids, pool)
            tokens, stats = run(engine, pair, request, prompt, truth, n_predict, n_stages, ids)
            truth = truth or tokens
            assert tokens == truth, f"{pair} writes another text"
            rates[pair].append(stats.tokens_per_s)
            lines[pair] = stats.line()
    for pair, each in rates.items():
        ratios = [a / b for a, b in zip(each, rates[PAIRS[0]], strict=True)]
        print(
            f"{pair[0]:12s} {pair[1]:7s} {median(each):7.2f} tok/s  ratio {median(ratios):.3f} "
            f"({min(ratios):.3f}-{max(ratios):.3f})  last: {lines[pair]}"
        )


def run(
    engine: Engine,
    pair: tuple[Any, str],
    request: dict[str, Any],
    prompt: list[int],
    truth: list[int],
    n_predict: int,
    n_stages: int,
    ids: Any,
) -> tuple[list[int], Any]:
    strategy, drafter = pair
    drafts = draft_config = None
    if drafter != "none":
        drafts = DraftThread(make_guesser(drafter, request, prompt, truth), engine.nudge)
        draft_config = DraftConfig()
    policy = Policy.of(strategy, draft_config, n_stages=n_stages, n_batch=N_BATCH)
    run_ids, pool = ids
    scheduler = Scheduler(prompt, n_max=n_predict, policy=policy, run_ids=run_ids, pool=pool)
    auto = AutoSpeculation() if strategy == "auto" else None
    stream = TokenStream(engine, scheduler, timeout_s=60, drafts=drafts, auto=auto)
    start_s = time.monotonic()
    times_s: list[float] = []
    tokens: list[int] = []
    for token in islice(stream, n_predict):
        tokens.append(token)
        times_s.append(time.monotonic())
    stream.finish()
    pool.drop(scheduler.close())
    if drafts is not None:
        drafts.close()
    info = RequestInfo(strategy=strategy, n_ranks=n_stages, n_stages=n_stages, n_prompt=len(prompt))
    return tokens, measure(info, start_s, times_s, scheduler.counters)


if __name__ == "__main__":
    main()
