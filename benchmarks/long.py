"""A long text: does a token get dearer for any other reason than attention? Does memory grow?

    mpiexec -n RANKS python benchmarks/long.py MODEL.gguf LIBRARY_FOLDER [tokens]

Generates through the pipeline, plainly and with `pipeinfer` and n-grams (the ids must be the same),
and then with the unpatched llama.cpp of LIBRARY_FOLDER in one process, fed the same tokens one at
a time. By parts of the text: the stages' compute for a run of one token, all stages together, next
to the unpatched decode of one token; what a token takes beyond compute; every rank's resident set.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

TESTS = Path(__file__).parents[1] / "tests"
sys.path += [str(TESTS / "helpers"), str(TESTS / "mpi")]

from ranks import (  # type: ignore[import-not-found]  # noqa: E402
    N_BATCH,
    WAIT_S,
    on_head,
    start,
)

from pipeinfer_cli.drafters.ngram import NgramDrafter  # noqa: E402
from pipeinfer_cli.drafters.thread import DraftThread  # noqa: E402
from pipeinfer_cli.engine.vocab import Vocab  # noqa: E402
from pipeinfer_cli.runtime.text.token_stream import TokenStream  # noqa: E402
from pipeinfer_cli.scheduler.kv_sequences import SequencePool  # noqa: E402
from pipeinfer_cli.scheduler.policy import DraftConfig, Policy, Strategy  # noqa: E402
from pipeinfer_cli.scheduler.runs import Result, Run  # noqa: E402
from pipeinfer_cli.scheduler.scheduler import Scheduler  # noqa: E402
from support import PROMPTS  # noqa: E402

N_PARTS = 8
STRATEGIES: tuple[Strategy, ...] = ("iterative", "pipeinfer")


class Observer:
    """Compute times of runs of one token, by the position of the token."""

    def __init__(self) -> None:
        self.compute_ms: dict[int, float] = {}
        self._runs: dict[int, Run] = {}

    def on_submit(self, run: Run) -> None:
        self._runs[run.run_id] = run

    def on_cancel(self, run_first: int, run_last: int) -> None:
        pass

    def on_result(self, result: Result, decided: Sequence[int], n_accepted: int) -> None:
        run = self._runs.pop(result.run_id)
        if len(run.tokens) == 1 and result.rows:
            total_us = sum(part.compute_us for part in result.times)
            self.compute_ms[run.tokens[0].position] = total_us / 1000


def generate(
    engine: Any,
    ids: Any,
    prompt: list[int],
    n_tokens: int,
    strategy: Strategy,
    n_stages: int,
    pids: list[int],
) -> Any:
    drafts = DraftThread(NgramDrafter(), engine.nudge) if strategy != "iterative" else None
    draft = DraftConfig() if drafts else None
    policy = Policy.of(strategy, draft, n_stages=n_stages, n_batch=N_BATCH)
    run_ids, pool = ids
    scheduler = Scheduler(prompt, n_max=n_tokens, policy=policy, run_ids=run_ids, pool=pool)
    observer = Observer()
    stream = TokenStream(engine, scheduler, timeout_s=WAIT_S, drafts=drafts, observer=observer)
    tokens, times, memory = [], [time.perf_counter()], [resident_mb(pids)]
    for token in islice(stream, n_tokens):
        tokens.append(token)
        times.append(time.perf_counter())
        if len(tokens) % (n_tokens // N_PARTS) == 0:
            memory.append(resident_mb(pids))
    if drafts is not None:
        drafts.close()
    stream.finish()
    pool.drop(scheduler.close())
    return tokens, times, observer.compute_ms, memory


def resident_mb(pids: list[int]) -> list[float]:
    page = os.sysconf("SC_PAGE_SIZE")
    return [int(Path(f"/proc/{p}/statm").read_text().split()[1]) * page / 1e6 for p in pids]


def plain_ms(model: str, library: str, tokens: list[int]) -> list[float]:
    """Milliseconds per token of the unpatched llama.cpp."""
    program = [sys.executable, str(Path(__file__).with_name("plain_times.py"))]
    environment = {**os.environ, "LLAMA_CPP_LIB_PATH": library}
    request = json.dumps({"model": model, "tokens": tokens})
    done = subprocess.run(
        program, input=request, env=environment, check=True, capture_output=True, text=True
    )
    return list(json.loads(done.stdout))


def main() -> None:
    model, library = sys.argv[1:3]
    n_tokens = int(sys.argv[3]) if len(sys.argv) > 3 else 4000
    comm = start()
    pids = comm.allgather(os.getpid())
    prompt = Vocab(Path(model)).tokenize(PROMPTS[0])
    request = {"model": model, "n_ctx": len(prompt) + n_tokens + 64}

    def head(engine: Any, run_ids: Any) -> Any:
        ids = run_ids, SequencePool()
        return {
            strategy: generate(engine, ids, prompt, n_tokens, strategy, comm.size, pids)
            for strategy in STRATEGIES
        }

    found = on_head(comm, request, head)
    if found is not None:
        text = found["iterative"][0]
        assert found["pipeinfer"][0] == text, "the texts differ"
        report(found, plain_ms(model, library, [*prompt, *text]), len(prompt), n_tokens)


def report(found: Any, plain: list[float], n_prompt: int, n_tokens: int) -> None:
    size = n_tokens // N_PARTS
    print("tokens       unpatched ms  iterative: stages ms  beyond ms   tok/s  pipeinfer: tok/s")
    rows = []
    for first in range(0, n_tokens - size + 1, size):
        # the last token of a text is never fed
        part = [i for i in range(first, first + size) if n_prompt + i in found["iterative"][2]]
        rows.append(
            (
                median(plain[n_prompt + i] for i in part),
                median(found["iterative"][2][n_prompt + i] for i in part),
                *(size / (found[s][1][first + size] - found[s][1][first]) for s in found),
            )
        )
        unpatched, stages, iterative_tps, pipeinfer_tps = rows[-1]
        print(
            f"{first:5d}-{first + size:5d}  {unpatched:12.3f}  {stages:20.3f}"
            f"  {1000 / iterative_tps - stages:9.3f}  {iterative_tps:6.1f}  {pipeinfer_tps:16.1f}"
        )
    for column, name in enumerate(("unpatched", "iterative, stages")):
        grown = 1000 * (rows[-1][column] - rows[0][column]) / (n_tokens - size)
        print(f"{name}: {grown:.3f} us more per token for each token of context")
    for strategy, (_, _, _, memory) in found.items():
        grown = [last - first for first, last in zip(memory[1], memory[-1], strict=True)]
        shown = ", ".join(f"{mb:+.1f}" for mb in grown)
        print(f"{strategy}: resident set of each rank after the first part: {shown} MB")


if __name__ == "__main__":
    main()
