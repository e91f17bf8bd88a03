"""Which runs to submit next: pure decisions, without MPI, ctypes, clock or randomness.

A scheduler owns the runs in flight. It is asked for runs (`take_runs`), is handed every result in
the order of submission (`on_result`), and says which tokens that result has decided.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from pipeinfer_cli.runs import Fate, Result, Run, RunToken


class Iterative:
    """No speculation: the prompt in runs of at most `n_batch` tokens, then one token at a time.

    Up to `depth` runs of the prompt are in flight, so that every stage has one to work on.
    """

    def __init__(
        self, prompt: Sequence[int], *, n_batch: int, depth: int, run_ids: Iterator[int]
    ) -> None:
        assert prompt and n_batch > 0 and depth > 0
        self._depth = depth
        self._run_ids = run_ids  # of the pipeline: they grow over all its requests
        self._position = len(prompt)  # of the next token
        self._ready: deque[tuple[RunToken, ...]] = deque(_prefill(prompt, n_batch))
        self._in_flight: deque[int] = deque()  # run ids

    def take_runs(self) -> list[Run]:
        """The runs to submit now, in this order."""
        runs = []
        while self._ready and len(self._in_flight) < self._depth:
            runs.append(Run(run_id=next(self._run_ids), tokens=self._ready.popleft()))
            self._in_flight.append(runs[-1].run_id)
        return runs

    def on_result(self, result: Result) -> list[int]:
        """The token ids that this result has decided: one, or none for a part of the prompt."""
        assert result.run_id == self._in_flight.popleft() and result.fate is Fate.COMPLETED
        for token in result.rows:
            self._ready.append((RunToken(id=token, position=self._position, want=True),))
            self._position += 1
        return list(result.rows)


def _prefill(prompt: Sequence[int], n_batch: int) -> Iterator[tuple[RunToken, ...]]:
    """The prompt in pieces; only its last token wants a row."""
    last = len(prompt) - 1
    tokens = [RunToken(id=t, position=p, want=p == last) for p, t in enumerate(prompt)]
    for first in range(0, len(tokens), n_batch):
        yield tuple(tokens[first : first + n_batch])
