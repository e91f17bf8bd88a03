"""A draft model in this process, computed by libpipeinfer."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from ctypes import c_int, c_int32
from functools import partial
from pathlib import Path

from pipeinfer_cli.engine import abi
from pipeinfer_cli.engine.abi import ERR_MODEL, ERROR_BYTES, OK, decoded
from pipeinfer_cli.engine.config import DraftCores
from pipeinfer_cli.engine.sampling import top_of
from pipeinfer_cli.errors import RunError, UserError
from pipeinfer_cli.scheduler.runs import SampleParams


class DraftModel:
    """A small model in this process, used by one thread at a time.

    RunError if loading fails, UserError if it is the file that cannot be used.
    """

    def __init__(
        self, path: Path, *, n_ctx: int, n_cells: int, n_batch: int, cores: DraftCores
    ) -> None:
        self._lib = abi.load()
        params = abi.DraftParams(
            os.fsencode(path),
            n_ctx,
            n_cells,
            n_batch,
            cores.n_threads,
            cores.has_own_cores,
            (c_int32 * len(cores.cpus))(*cores.cpus),
            len(cores.cpus),
        )
        status, err = c_int(), ctypes.create_string_buffer(ERROR_BYTES)
        self._handle = self._lib.pi_draft_open(params, status, err, ERROR_BYTES)
        if not self._handle:
            kind = UserError if status.value == ERR_MODEL else RunError
            raise kind(f"cannot load the draft model {str(path)!r}: {decoded(err.value)}")
        n_tokens, eos = c_int32(), c_int32()
        self._lib.pi_draft_vocab(self._handle, n_tokens, eos)
        self.n_vocab, self.eos = n_tokens.value, eos.value  # eos is -1 if there is none

    def keep(self, n_tokens: int) -> None:
        """Forgets what was fed after the first n tokens."""
        self._lib.pi_draft_keep(self._handle, n_tokens)

    def feed(self, tokens: Sequence[int]) -> None:
        """Feeds at most n_batch tokens after those before."""
        ids = (c_int32 * len(tokens))(*tokens)
        if self._lib.pi_draft_feed(self._handle, ids, len(tokens)) != OK:
            raise RunError(f"the draft model: {decoded(self._lib.pi_draft_error(self._handle))}")

    def top(self, n_vocab: int, params: SampleParams, n: int) -> list[tuple[int, float]]:
        """What may follow, of the first n_vocab ids: as `sample_top`."""
        return top_of(partial(self._lib.pi_draft_top, self._handle, n_vocab), params, n)

    def close(self) -> None:
        """Frees everything."""
        handle, self._handle = self._handle, None
        self._lib.pi_draft_close(handle)
