"""A soak: one loaded pipeline, request after request, and nothing may pile up.

    mpiexec -n 3 python benchmarks/soak.py MODEL.gguf MINUTES

Requests have random prompts, lengths, strategies, drafters and early ends. Afterwards: every text
was the same each time, the memory of each rank is flat, no message is pending, and the KV caches
are empty. Exit code 1 if not. All ranks on one host.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from pipeinfer_cli.commands.generate_config import GenerateConfig, Prompt
from pipeinfer_cli.drafters.ngram import NgramDrafter
from pipeinfer_cli.engine.engine import Engine
from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.launch import mpi
from pipeinfer_cli.runtime import pipeline
from pipeinfer_cli.runtime.head import Head, Request
from pipeinfer_cli.runtime.pipeline import Plan
from pipeinfer_cli.scheduler.interfaces import Candidate, DraftBatch, Drafter
from pipeinfer_cli.scheduler.policy import ABLATIONS, STRATEGIES, DraftConfig
from pipeinfer_cli.scheduler.runs import KvKind, KvOp, Run

N_CTX, MAX_PROMPT, MAX_TEXT, N_PROMPTS = 256, 120, 96, 12
TIMEOUT_S = 60.0
SAMPLES = 300  # of memory, over the whole time
WARM_UP = 0.1  # of the time: allocators and caches find their size
GROWTH_BYTES, GROWTH_SHARE = 1_000_000, 0.01  # from the first to the last third: more is a leak
LAST_RUN_ID = 1 << 40


class Teller:
    """Knows the text, and says it right with some chance; so do its other candidates."""

    def __init__(self, text: Sequence[int], chance: float, n_vocab: int, seed: int) -> None:
        self._text, self._chance, self._n_vocab = text, chance, n_vocab
        self._random = random.Random(seed)

    def expand(
        self,
        batch: DraftBatch,
        is_wanted: Callable[[], bool],
    ) -> list[Sequence[Candidate]] | None:
        """See interfaces.Drafter."""
        positions = [batch.n_text + len(branch) for branch in batch.branches]
        return [
            self._candidates(self._text[at], batch.n_candidates) if at < len(self._text) else ()
            for at in positions
        ]

    def _candidates(self, token: int, n: int) -> list[Candidate]:
        right = token if self._random.random() < self._chance else self._other(token)
        others = [(self._other(right), 0.3) for _ in range(n - 1)]
        return list(dict([(right, self._random.choice([0.4, 0.6, 1.0])), *others]).items())

    def _other(self, token: int) -> int:
        return (token + self._random.randrange(1, self._n_vocab)) % self._n_vocab


class Soak:
    """What the head does."""

    def __init__(self, plan: Plan, minutes: float, pids: Sequence[int]) -> None:
        self._plan = plan
        self._n_vocab = Vocab(plan.files.head_path).n_tokens
        self._seconds = 60 * minutes
        self._pids = pids
        self._random = random.Random(1)
        self._prompts = [self._prompt() for _ in range(N_PROMPTS)]
        self._texts: dict[int, list[int]] = {}
        self.memory: list[tuple[float, list[int]]] = []  # s, bytes of each rank
        self.n_requests = self.n_tokens = self.n_early = self.n_runs = self.n_cancelled = 0
        self.kv_of_one = -1  # positions held after the last request
        self.faults: list[str] = []

    def __call__(self, engine: Engine) -> None:
        """Requests until the time is over."""
        head = Head(self._plan, engine, timeout_s=TIMEOUT_S)
        begin_s = time.monotonic()
        sample_s = begin_s
        while (now_s := time.monotonic()) < begin_s + self._seconds:
            if now_s >= sample_s:
                self.memory.append((now_s - begin_s, [anonymous_bytes(pid) for pid in self._pids]))
                sample_s += self._seconds / SAMPLES
            self._serve(head)
        self._last(head, engine)

    def _serve(self, head: Head) -> None:
        index = self._random.randrange(N_PROMPTS)
        prompt = self._prompts[index]
        if index not in self._texts:
            with head.begin(Request(prompt=prompt, n_max=MAX_TEXT)) as plain:
                self._texts[index] = list(islice(plain.tokens, MAX_TEXT))
        text = self._texts[index]
        n_max = self._random.randint(1, MAX_TEXT)
        # the rest of the time it is given up somewhere, with runs in flight
        n_taken = n_max if self._random.random() < 0.6 else self._random.randint(0, n_max)
        with head.begin(self._request(prompt, text, n_max)) as active:
            found = list(islice(active.tokens, n_taken))
            self.n_runs += active.counters.n_launched
            self.n_cancelled += active.counters.n_cancelled
        if found != text[:n_taken]:
            self.faults.append(f"request {self.n_requests}: another text than before")
        self.n_requests += 1
        self.n_tokens += len(found)
        self.n_early += n_taken < n_max

    def _request(self, prompt: Sequence[int], text: Sequence[int], n_max: int) -> Request:
        pick = self._random
        strategy = pick.choice(STRATEGIES)
        may_leave_out = strategy in ("pipeinfer", "auto")
        chance = pick.choice([0.0, 0.3, 0.7, 0.9, 1.0])
        drafter: Drafter = NgramDrafter()
        if pick.random() < 0.8:
            known = [*prompt, *text]
            drafter = Teller(known, chance, self._n_vocab, pick.randrange(1 << 30))
        return Request(
            prompt=prompt,
            n_max=n_max,
            strategy=strategy,
            draft=DraftConfig(n_max=pick.randint(1, 8), width=pick.randint(1, 3)),
            ablations=tuple(each for each in ABLATIONS if may_leave_out and pick.random() < 0.15),
            drafter=drafter,
        )

    def _last(self, head: Head, engine: Engine) -> None:
        """A plain request, and then nothing: what is held is its alone; then it goes, too."""
        with head.begin(Request(prompt=self._prompts[0], n_max=4)) as plain:
            list(islice(plain.tokens, 4))
        plain.tokens.finish()
        self.kv_of_one = engine.kv_positions()
        remove_all = KvOp(kind=KvKind.REMOVE, seq_src=-1)
        engine.submit(Run(run_id=LAST_RUN_ID, kv_ops=(remove_all,), tokens=()))
        assert engine.wait(TIMEOUT_S) is not None
        # nothing comes unasked
        assert engine.wait(0.5) is None, "a result that nobody waits for"

    def _prompt(self) -> list[int]:
        n_tokens = self._random.randint(2, MAX_PROMPT)
        return [self._random.randrange(3, self._n_vocab) for _ in range(n_tokens)]


def anonymous_bytes(pid: int) -> int:
    """What a process has allocated; pages of mapped files come and go as the kernel likes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")


def report(soak: Soak, kv: Sequence[int], pending: Sequence[int]) -> int:
    """Says it on stdout; returns the exit code."""
    faults = soak.faults
    print(
        f"{soak.n_requests} requests ({soak.n_early} given up early), {soak.n_tokens} tokens, "
        f"{soak.n_runs} runs, {soak.n_cancelled} cancelled; every text as before: {not faults}"
    )
    seconds = np.array([at for at, _ in soak.memory])
    kept = seconds >= WARM_UP * seconds[-1]
    for rank in range(len(kv)):
        held = np.array([each[rank] for _, each in soak.memory], dtype=np.float64)[kept]
        third = max(len(held) // 3, 1)
        first, last = median(held[:third]), median(held[-third:])
        slope = np.polyfit(seconds[kept], held, 1)[0] * 3600 / 1e6
        print(
            f"rank {rank}: {first / 1e6:.2f} MB in the first third, {last / 1e6:.2f} MB in the "
            f"last, {slope:+.2f} MB an hour; KV positions at the end: {kv[rank]}; "
            f"messages pending: {pending[rank]}"
        )
        if last - first > GROWTH_BYTES + GROWTH_SHARE * first:
            faults.append(f"rank {rank} grows")
        if kv[rank] > 0 or pending[rank]:
            faults.append(f"rank {rank} has something left")
    if not 0 <= soak.kv_of_one <= MAX_PROMPT + 8:
        faults.append(f"{soak.kv_of_one} positions held after a single request")
    print("FAULTS: " + "; ".join(faults) if faults else "nothing piles up")
    return 1 if faults else 0


def main(model: str, minutes: float) -> int:
    comm = mpi.start()
    comms: list[Any] = []
    held = [0]
    remember(held)
    pids = comm.allgather(os.getpid())
    soaks: list[Soak] = []

    def prepare(plan: Plan) -> Callable[[Engine], None]:
        soaks.append(Soak(plan, minutes, pids))
        return soaks[0]

    config = GenerateConfig(
        model=model,
        prompt=Prompt(text=""),
        n_ctx=N_CTX,
        threads=1,
        timeout_s=TIMEOUT_S,
        draft=DraftConfig(n_max=8, width=3),
    )
    recorded: Any = Recorded(comm, comms)
    code = pipeline.run(config, recorded, prepare)
    pending = sum(each.Iprobe() for each in comms)
    kv, pendings = comm.gather(held[0]), comm.gather(pending)
    return report(soaks[0], kv or [], pendings or []) or code if soaks else code


def remember(held: list[int]) -> None:
    """Has each rank note what its KV cache holds when its engine is closed."""
    close = Engine.close

    def noting(self: Engine, exit_code: int = 0) -> None:
        held[0] = self.kv_positions()
        close(self, exit_code)

    Engine.close = noting  # type: ignore[method-assign]


class Recorded:
    """A communicator that notes its duplicates."""

    def __init__(self, comm: Any, duplicates: list[Any]) -> None:
        self._comm, self._duplicates = comm, duplicates

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)

    def Dup(self) -> Any:  # noqa: N802 (mpi4py's name)
        self._duplicates.append(self._comm.Dup())
        return self._duplicates[-1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2])))
