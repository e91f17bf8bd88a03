"""The drafter that is a small model, in the head's process."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeinfer_cli.engine import draft, llama_cpp
from pipeinfer_cli.engine.config import ONE_THREAD, DraftCores
from pipeinfer_cli.scheduler.interfaces import Candidate
from pipeinfer_cli.scheduler.kv_sequences import common_prefix
from pipeinfer_cli.scheduler.policy import N_BATCH
from pipeinfer_cli.scheduler.runs import DEFAULT_SAMPLE, SampleParams


class ModelDrafter:
    """Tokens of a small model with the target's vocabulary, drawn as the target draws its own.

    Used by one thread; another one may close it at any time. Of the vocabulary it proposes the ids
    below `n_shared` only (None: all), and reads others, which it does not know, as its end of text.

    Its KV cache keeps the longest beginning that a context shares with the one before.
    """

    def __init__(
        self,
        path: Path,
        *,
        n_ctx: int,
        cores: DraftCores = ONE_THREAD,
        sample: SampleParams = DEFAULT_SAMPLE,
        n_shared: int | None = None,
    ) -> None:
        llama_cpp.capture_log()
        self._model = draft.DraftModel(
            path, n_ctx=n_ctx, n_cells=n_ctx + N_BATCH, n_batch=N_BATCH, cores=cores
        )
        self._n_ctx = n_ctx
        self._sample = sample
        n_tokens, eos = self._model.n_vocab, self._model.eos
        self._n_vocab = n_tokens if n_shared is None else min(n_shared, n_tokens)
        self._unknown = eos if 0 <= eos < self._n_vocab else 0
        self._cached: list[int] = []
        self._at_work = threading.Lock()  # while llama.cpp is
        self._is_closed = False

    def propose(
        self, context: Sequence[int], n_candidates: int = 1
    ) -> Iterator[Sequence[Candidate]]:
        """See interfaces.Drafter."""
        with self._at_work:
            if self._is_closed:
                return
            self._rewind(context)
        todo = list(context[len(self._cached) :])
        while len(self._cached) + len(todo) < self._n_ctx:
            with self._at_work:
                if self._is_closed:
                    return
                self._decode(todo[:N_BATCH])
                candidates = self._drawn(n_candidates) if len(todo) <= N_BATCH else []
            yield candidates
            todo = todo[N_BATCH:] or [candidates[0][0]]

    def forget(self, sample: SampleParams) -> None:
        """Forgets the text before: the next one costs what a first one costs, and is drawn so."""
        self._sample = sample
        self._model.keep(0)
        self._cached.clear()

    def close(self) -> None:
        """Frees the model; it is not used after that.

        Unless a thread is at work with it: then it stays, as the process is about to end (a second
        signal does not wait for that thread).
        """
        self._is_closed = True
        if self._at_work.acquire(blocking=False):
            self._model.close()
            self._at_work.release()

    def _rewind(self, context: Sequence[int]) -> None:
        """Forgets what is cached beyond the context's beginning; its last token is fed again."""
        n_keep = common_prefix(self._cached, context[:-1])
        if n_keep < len(self._cached):
            self._model.keep(n_keep)
            del self._cached[n_keep:]

    def _decode(self, piece: list[int]) -> None:
        """Feeds at most N_BATCH tokens; the context has the logits after the last one then."""
        self._model.feed([token if token < self._n_vocab else self._unknown for token in piece])
        self._cached += piece

    def _drawn(self, n_candidates: int) -> list[Candidate]:
        """What may follow what is cached."""
        return self._model.top(self._n_vocab, self._sample, n_candidates)
