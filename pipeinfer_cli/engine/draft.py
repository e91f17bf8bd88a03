"""A draft model in this process, computed by libpipeinfer."""

from __future__ import annotations

import ctypes
import os
from ctypes import c_float, c_int, c_int32
from pathlib import Path

from pipeinfer_cli.engine import abi
from pipeinfer_cli.engine.abi import ERR_MODEL, ERROR_BYTES, OK, decoded
from pipeinfer_cli.engine.config import F16_CACHE, CacheTypes, DraftCores
from pipeinfer_cli.engine.cpu.devices import ALL_LAYERS
from pipeinfer_cli.engine.native_run import native_run
from pipeinfer_cli.engine.sampling import MAX_TOP, native_sample
from pipeinfer_cli.errors import RunError, UserError
from pipeinfer_cli.scheduler.interfaces import Candidate
from pipeinfer_cli.scheduler.runs import Run, SampleParams


class DraftModel:
    """A small model in this process, used by one thread at a time.

    RunError if loading fails, UserError if it is the file that cannot be used.
    """

    def __init__(
        self,
        path: Path,
        *,
        n_ctx: int,
        n_cells: int,
        n_batch: int,
        cores: DraftCores,
        cache_types: CacheTypes = F16_CACHE,
    ) -> None:
        self._lib = abi.load()
        params = abi.DraftParams(
            os.fsencode(path),
            n_ctx,
            n_cells,
            *cache_types.ids,
            n_batch,
            cores.n_threads,
            cores.has_own_cores,
            (c_int32 * len(cores.cpus))(*cores.cpus),
            len(cores.cpus),
            (c_int32 * len(cores.nodes))(*cores.nodes),
            len(cores.nodes),
            abi.devices([cores.device] if cores.device else [], ALL_LAYERS),
        )
        status, err = c_int(), ctypes.create_string_buffer(ERROR_BYTES)
        self._handle = self._lib.pi_draft_open(params, status, err, ERROR_BYTES)
        if not self._handle:
            kind = UserError if status.value == ERR_MODEL else RunError
            raise kind(f"cannot load the draft model {str(path)!r}: {decoded(err.value)}")
        self._n_found = (c_int32 * n_batch)()
        self._tokens = (c_int32 * (n_batch * MAX_TOP))()
        self._probabilities = (c_float * (n_batch * MAX_TOP))()
        n_tokens, eos = c_int32(), c_int32()
        self._lib.pi_draft_vocab(self._handle, n_tokens, eos)
        self.n_vocab, self.eos = n_tokens.value, eos.value  # eos is -1 if there is none

    def expand(self, run: Run, n_vocab: int, params: SampleParams) -> list[list[Candidate]]:
        """Computes a run of at most n_batch tokens: what may follow each that wants a row.

        As `sample_top` has it, the MAX_TOP best of the first n_vocab ids.
        """
        status = self._lib.pi_draft_expand(
            self._handle,
            native_run(run),
            n_vocab,
            native_sample(params),
            MAX_TOP,
            self._n_found,
            self._tokens,
            self._probabilities,
        )
        if status != OK:
            raise RunError(f"the draft model: {decoded(self._lib.pi_draft_error(self._handle))}")
        rows = []
        for index in range(run.n_rows):
            first = index * MAX_TOP
            found = slice(first, first + self._n_found[index])
            rows.append(list(zip(self._tokens[found], self._probabilities[found], strict=True)))
        return rows

    def close(self) -> None:
        """Frees everything."""
        handle, self._handle = self._handle, None
        self._lib.pi_draft_close(handle)
