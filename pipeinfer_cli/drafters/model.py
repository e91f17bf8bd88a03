"""The drafter that is a small model, in the head's process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pipeinfer_cli.drafters.branch_cache import BranchCache, n_cells
from pipeinfer_cli.engine import draft, llama_cpp
from pipeinfer_cli.engine.config import F16_CACHE, ONE_THREAD, CacheTypes, DraftCores
from pipeinfer_cli.scheduler.interfaces import Candidate, DraftBatch
from pipeinfer_cli.scheduler.policy import N_BATCH
from pipeinfer_cli.scheduler.runs import DEFAULT_SAMPLE, Run, RunToken, SampleParams


class ModelDrafter:
    """Tokens of a small model with the target's vocabulary, drawn as the target draws its own.

    Used by one thread; another one may close it at any time. Of the vocabulary it proposes the ids
    below `n_shared` only (None: all), and reads others, which it does not know, as its end of text.

    Its KV cache keeps what a text shares with the one before, and the text's branches.
    """

    def __init__(
        self,
        path: Path,
        *,
        n_ctx: int,
        cores: DraftCores = ONE_THREAD,
        sample: SampleParams = DEFAULT_SAMPLE,
        n_shared: int | None = None,
        cache_types: CacheTypes = F16_CACHE,
    ) -> None:
        self.path = path
        llama_cpp.capture_log()
        self._model = draft.DraftModel(
            path,
            n_ctx=n_ctx,
            n_cells=n_cells(n_ctx),
            n_batch=N_BATCH,
            cores=cores,
            cache_types=cache_types,
        )
        self._n_ctx = n_ctx
        self._sample = sample
        n_tokens, eos = self._model.n_vocab, self._model.eos
        self._n_vocab = n_tokens if n_shared is None else min(n_shared, n_tokens)
        self._unknown = eos if 0 <= eos < self._n_vocab else 0
        self._cache = BranchCache(self._decode, n_ctx=n_ctx)
        self._at_work = threading.Lock()  # while llama.cpp is
        self._is_closed = False

    def expand(
        self, batch: DraftBatch, is_wanted: Callable[[], bool]
    ) -> list[Sequence[Candidate]] | None:
        """See interfaces.Drafter; None, too, once it is closed."""
        with self._at_work:
            if self._is_closed:
                return None
            return self._cache.expand(batch, lambda: not self._is_closed and is_wanted())

    def forget(self, sample: SampleParams) -> None:
        """Forgets the text before: the next one costs what a first one costs, and is drawn so."""
        self._sample = sample
        self._cache.forget()

    def close(self) -> None:
        """Frees the model; it is not used after that.

        Unless a thread is at work with it: then it stays, as the process is about to end (a second
        signal does not wait for that thread).
        """
        self._is_closed = True
        if self._at_work.acquire(blocking=False):
            self._model.close()
            self._at_work.release()

    def _decode(self, run: Run) -> list[Sequence[Candidate]]:
        if any(token.id >= self._n_vocab for token in run.tokens):
            run = replace(run, tokens=tuple(map(self._known, run.tokens)))
        return [*self._model.expand(run, self._n_vocab, self._sample)]

    def _known(self, token: RunToken) -> RunToken:
        return token if token.id < self._n_vocab else replace(token, id=self._unknown)
