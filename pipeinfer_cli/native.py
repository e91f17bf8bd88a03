"""libpipeinfer for Python: the engine, and what it knows of models, tokens and samples."""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from ctypes import (
    POINTER,
    c_char,
    c_float,
    c_int32,
    c_uint32,
    c_uint64,
)
from dataclasses import astuple, dataclass
from functools import cache, partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeinfer_cli import abi
from pipeinfer_cli.emulation.rank import RankEmulation
from pipeinfer_cli.errors import RunError, UserError, exit_code_of
from pipeinfer_cli.scheduler.runs import DEFAULT_SAMPLE, Fate, Result, Run, SampleParams, StageTime
from pipeinfer_cli.watchdog.beat import Beat

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    import numpy.typing as npt

MAX_LAYERS = 512
MAX_TOP = 16  # tokens of one sample_top
ERROR_BYTES = 1024
MAX_TENSOR_TYPES = 1024  # far more than there are: larger numbers are damage

PR_SET_PDEATHSIG = 1
WAITING_S = 0.5  # a head that waits for results asks for them more often than this
OK, TIMEOUT, STOPPED = 0, 1, 2
ERR_INVALID = -1


def die_with_parent() -> None:
    """Has the kernel kill this process when its parent is gone, even while it is stopped."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))


def capture_log(*, verbose: bool = False) -> None:
    """Takes over llama.cpp's log: silence, or its warnings and errors on stderr."""
    abi.load().pi_log_capture(verbose)


def log_to_file(fd: int, name: str) -> None:
    """Has llama.cpp's warnings and errors appended to an open file, in lines by `name`."""
    abi.load().pi_log_file(fd, name.encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What a GGUF says of itself."""

    arch: str
    n_layer: int
    n_embd: int
    n_vocab: int
    n_ctx_train: int
    can_split: bool
    tied_output: bool  # the output head is the token embedding
    layer_bytes: tuple[int, ...]  # [n_layer]
    bytes_input: int  # what only the first stage needs; with tied_output the last one, too
    bytes_output: int  # what only the last stage needs
    bytes_total: int


def read_model_info(path: Path) -> ModelInfo:
    """Reads a GGUF's header. UserError if the file is missing, truncated or no model."""
    info = abi.ModelInfo()
    layer_bytes = (c_uint64 * MAX_LAYERS)()
    err = ctypes.create_string_buffer(ERROR_BYTES)
    status = abi.load().pi_model_info_read(
        os.fsencode(path), info, layer_bytes, MAX_LAYERS, err, ERROR_BYTES
    )
    if status != OK:
        raise UserError(f"cannot use the model {str(path)!r}: {_text(err.value)}: check -m/--model")
    return ModelInfo(
        arch=_text(info.arch),
        n_layer=info.n_layer,
        n_embd=info.n_embd,
        n_vocab=info.n_vocab,
        n_ctx_train=info.n_ctx_train,
        can_split=bool(info.can_split),
        tied_output=bool(info.tied_output),
        layer_bytes=tuple(layer_bytes[: info.n_layer]),
        bytes_input=info.bytes_input,
        bytes_output=info.bytes_output,
        bytes_total=info.bytes_total,
    )


@cache
def stage_archs() -> tuple[str, ...]:
    """The architectures (general.architecture) that can be split by layers, sorted."""
    names = takewhile(bool, (abi.load().pi_stage_arch(i) for i in itertools.count()))
    return tuple(sorted(_text(name) for name in names))


@cache
def tensor_type(type_id: int) -> tuple[int, int] | None:
    """Elements and bytes of one block of a tensor type (enum ggml_type); None: no such type."""
    n_elements, n_bytes = c_int32(), c_int32()
    if not 0 <= type_id < MAX_TENSOR_TYPES:
        return None
    if abi.load().pi_tensor_type(type_id, n_elements, n_bytes) != OK:
        return None
    return n_elements.value, n_bytes.value


def quantize(
    source: Path,
    target: Path,
    *,
    file_type: int,
    n_threads: int,
    left_out: Sequence[int] = (),
    notes: tuple[str, str, str],
) -> None:
    """Writes a GGUF again as another type (enum llama_ftype, or -1), and without some layers.

    The notes (source, its SHA-256, how), of at most 127 bytes each, go into the metadata. RunError
    if it fails; a full disk may go unnoticed, and a damaged file may end the process.
    """
    err = ctypes.create_string_buffer(ERROR_BYTES)
    params = abi.QuantizeParams(
        file_type,
        n_threads,
        len(left_out),
        (c_int32 * len(left_out))(*left_out),
        *(note.encode() for note in notes),
    )
    status = abi.load().pi_quantize(
        os.fsencode(source), os.fsencode(target), params, err, ERROR_BYTES
    )
    if status != OK:
        raise RunError(_text(err.value))


def sample(
    logits: npt.NDArray[np.float32], position: int, params: SampleParams
) -> tuple[int, float]:
    """Draws the token to stand at `position`, as the last stage does; see `sample_pointer`.

    `logits` is float32 `[n_vocab]`, contiguous, of the token before that position.
    """
    assert logits.dtype == "float32" and logits.ndim == 1 and logits.flags.c_contiguous
    return sample_pointer(logits.ctypes.data_as(POINTER(c_float)), len(logits), position, params)


def sample_pointer(
    logits: Any, n_vocab: int, position: int, params: SampleParams
) -> tuple[int, float]:
    """As `sample`, for a pointer to float as llama_cpp's llama_get_logits_ith returns it.

    Returns the token id and its softmax probability over the whole vocabulary at temperature 1,
    without filters. A pure function of its arguments: noise depends on seed, position and token id.
    """
    token = c_int32()
    probability = c_float()
    status = abi.load().pi_sample(
        logits, n_vocab, position, _native_sample(params), token, probability
    )
    assert status == OK, "n_vocab is 1 or more, and position 0 or more"
    return token.value, probability.value


def sample_top(
    logits: npt.NDArray[np.float32], position: int, params: SampleParams, n: int
) -> list[tuple[int, float]]:
    """As `sample_top_pointer`; `logits` is float32 `[n_vocab]`, contiguous."""
    assert logits.dtype == "float32" and logits.ndim == 1 and logits.flags.c_contiguous
    pointer = logits.ctypes.data_as(POINTER(c_float))
    return sample_top_pointer(pointer, len(logits), position, params, n)


def sample_top_pointer(
    logits: Any, n_vocab: int, position: int, params: SampleParams, n: int
) -> list[tuple[int, float]]:
    """The n (1 to MAX_TOP) best tokens in the order of the draw, the first one `sample_pointer`'s.

    Each with its probability, as there. Fewer than n if filters or the vocabulary leave fewer.
    """
    return _top(partial(abi.load().pi_sample_top, logits, n_vocab, position), params, n)


def _top(call: Callable[..., int], params: SampleParams, n: int) -> list[tuple[int, float]]:
    """The tokens and probabilities that pi_sample_top or pi_draft_top fills in."""
    tokens = (c_int32 * MAX_TOP)()
    probabilities = (c_float * MAX_TOP)()
    n_found = c_int32()
    status = call(_native_sample(params), n, n_found, tokens, probabilities)
    assert status == OK, f"n_vocab is 1 or more, position 0 or more, and n 1 to {MAX_TOP}"
    return list(zip(tokens[: n_found.value], probabilities[: n_found.value], strict=True))


@cache
def _native_sample(params: SampleParams) -> abi.SampleParams:
    return abi.SampleParams(*astuple(params))


def _native_emulation(emulation: RankEmulation | None) -> Any:
    """A pointer; null for None."""
    if emulation is None:
        return None
    return ctypes.pointer(
        abi.Emulation(
            (c_uint32 * len(emulation.stage_us))(*emulation.stage_us),
            len(emulation.stage_us),
            emulation.latency_us,
            emulation.bytes_per_us,
            emulation.hidden_bytes,
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftCores:
    """With how many threads a draft model computes in the head's process, and on which cores."""

    n_threads: int = 1
    shares_cores: bool = False  # with the head's stage: one of the two computes at a time
    has_own_cores: bool = False  # idle threads may spin


ONE_THREAD = DraftCores()


class DraftModel:
    """A small model in this process, used by one thread at a time. RunError if loading fails."""

    def __init__(self, path: Path, *, n_ctx: int, n_batch: int, cores: DraftCores) -> None:
        self._lib = abi.load()
        params = abi.DraftParams(
            os.fsencode(path),
            n_ctx,
            n_batch,
            cores.n_threads,
            cores.has_own_cores,
        )
        err = ctypes.create_string_buffer(ERROR_BYTES)
        self._handle = self._lib.pi_draft_open(params, err, ERROR_BYTES)
        if not self._handle:
            raise RunError(_text(err.value))
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
            raise RunError(f"the draft model: {_text(self._lib.pi_draft_error(self._handle))}")

    def top(self, n_vocab: int, params: SampleParams, n: int) -> list[tuple[int, float]]:
        """What may follow, of the first n_vocab ids: as `sample_top`."""
        return _top(partial(self._lib.pi_draft_top, self._handle, n_vocab), params, n)

    def close(self) -> None:
        """Frees everything."""
        handle, self._handle = self._handle, None
        self._lib.pi_draft_close(handle)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """This rank's place in the pipeline; see struct pi_engine_params."""

    model_path: Path
    rank: int = 0
    n_ranks: int = 1
    stage_rank0: int = 0  # 1 if the head holds no layers
    layer_first: int
    layer_last: int  # equal to layer_first: no layers
    n_ctx: int
    n_batch: int  # most tokens in a run
    n_threads: int
    has_own_cores: bool = False  # a core for each compute thread: idle threads may spin
    shares_cores: bool = False  # with draft models of this process: one at a time computes
    comm_data: int = 0  # Fortran handles
    comm_control: int = 0
    sample: SampleParams = DEFAULT_SAMPLE  # the same on all ranks; of tokens that say nothing else
    emulation: RankEmulation | None = None


class Engine:
    """This process's part of the pipeline. Loads the layers; raises RunError if that fails.

    Use it as a context manager, or call `close` (twice is fine).
    """

    watched = False  # by a watchdog, which ends waits that are in vain

    def __init__(self, config: EngineConfig) -> None:
        changed: dict[str, Any] = {
            "model_path": os.fsencode(config.model_path),
            "sample": _native_sample(config.sample),
            "emulation": _native_emulation(config.emulation),
        }
        names = [name for name, *_ in abi.EngineParams._fields_ if name not in changed]
        params = abi.EngineParams(**changed, **{name: getattr(config, name) for name in names})
        err = ctypes.create_string_buffer(ERROR_BYTES)
        self._lib = abi.load()
        self._awaited: deque[int] = deque()  # run ids
        self._n_results = 0
        self._waited_s = 0.0  # when the head last waited for a result
        self._handle = self._lib.pi_engine_open(params, err, ERROR_BYTES)
        if not self._handle:
            raise RunError(f"cannot load {str(config.model_path)!r}: {_text(err.value)}")
        self.config = config

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(exit_code_of(error))

    def submit(self, run: Run) -> None:
        """Sends a run on its way. ValueError if it breaks a rule; RunError if a stage failed."""
        kv_ops = [
            abi.KvOp(op.kind, op.seq_src, op.seq_dst, op.pos_first, op.pos_last)
            for op in run.kv_ops
        ]
        samples = run.samples
        index_of: dict[SampleParams | None, int] = {None: -1}
        index_of.update((sample, index) for index, sample in enumerate(samples))
        tokens = [
            abi.Token(t.id, t.position, len(t.seq_ids), t.want, index_of[t.sample])
            for t in run.tokens
        ]
        seq_ids = [seq_id for token in run.tokens for seq_id in token.seq_ids]
        native = abi.Run(
            run.run_id,
            run.epoch,
            len(kv_ops),
            len(tokens),
            len(seq_ids),
            (abi.KvOp * len(kv_ops))(*kv_ops),
            (abi.Token * len(tokens))(*tokens),
            (c_int32 * len(seq_ids))(*seq_ids),
            (abi.SampleParams * len(samples))(*map(_native_sample, samples)),
            len(samples),
        )
        self._check(self._lib.pi_submit(self._handle, native))
        self._awaited.append(run.run_id)

    def wait(self, timeout_s: float) -> Result | None:
        """The next result, in the order of submission; None when the time is over, or nudged."""
        native = abi.Result()
        self._waited_s = time.monotonic()
        if self._check(self._lib.pi_wait(self._handle, int(timeout_s * 1000), native)) == TIMEOUT:
            return None
        self._awaited.popleft()
        self._n_results += 1
        times = native.times[: native.n_times]
        return Result(
            run_id=native.run_id,
            epoch=native.epoch,
            fate=Fate(native.fate),
            rows=tuple(native.rows[: native.n_rows]),
            times=tuple(
                StageTime(
                    t.stage,
                    Fate(t.fate),
                    t.start_us,
                    t.wait_us,
                    t.compute_us,
                    t.in_bytes,
                    t.late_us,
                )
                for t in times
            ),
            in_bytes=native.in_bytes,
        )

    def nudge(self) -> None:
        """Has `wait` return, now or the next time it is called. For any thread."""
        self._lib.pi_nudge(self._handle)

    def give_up(self, message: str) -> None:
        """Has this rank's calls raise RunError with the message from now on. For any thread."""
        self._lib.pi_give_up(self._handle, message.encode())

    def beat(self) -> Beat:
        """What this rank is at. For any thread."""
        activity = (c_uint64 * 4)()
        self._lib.pi_activity(self._handle, activity)
        run_id, computing_us, done_id, n_nodes = activity
        awaited = next(iter(self._awaited.copy()), 0)
        return Beat(
            is_due=awaited > 0 and time.monotonic() - self._waited_s < WAITING_S,
            run_id=run_id,
            computing_us=computing_us,
            done_id=done_id,
            awaited_id=awaited,
            moved=n_nodes + done_id + self._n_results,
        )

    def cancel(self, run_first: int, run_last: int) -> None:
        """Gives up the runs `[run_first, run_last]`, wherever they are."""
        self._check(self._lib.pi_cancel(self._handle, run_first, run_last))

    def serve(self, timeout_s: float) -> int | None:
        """On a rank that is not the head: the job's exit code once it has ended, else None."""
        code = c_int32()
        status = self._check(
            self._lib.pi_serve(self._handle, int(timeout_s * 1000), ctypes.byref(code))
        )
        return code.value if status == STOPPED else None

    def report_failure(self, message: str) -> None:
        """Tells the head that this rank cannot go on."""
        self._check(self._lib.pi_report_failure(self._handle, message.encode()))

    def kv_positions(self) -> int:
        """Positions held in this rank's KV cache, summed over sequences; -1 without layers."""
        return int(self._lib.pi_kv_positions(self._handle))

    def last_logits(self, n_vocab: int) -> npt.NDArray[np.float32] | None:
        """A copy of the last row's logits, float32 `[n_vocab]`; None unless the last stage is here.

        Only while no run is in flight.
        """
        import numpy as np  # takes longer to import than all of ours

        logits = self._lib.pi_last_logits(self._handle)
        return np.ctypeslib.as_array(logits, (n_vocab,)).copy() if logits else None

    def close(self, exit_code: int = 0) -> None:
        """Ends the job with this code (the head tells all ranks) and frees everything."""
        handle, self._handle = self._handle, None
        self._lib.pi_engine_close(handle, exit_code)

    def _check(self, status: int) -> int:
        if status >= OK:
            return status
        message = _text(self._lib.pi_last_error(self._handle))
        if status == ERR_INVALID:
            raise ValueError(message)
        raise RunError(message)


def byte_buffer(size: int) -> ctypes.Array[c_char]:
    """Writable memory for llama-cpp-python's bindings to put bytes into; `.raw` reads it."""
    return ctypes.create_string_buffer(size)


def _text(data: bytes) -> str:
    return " ".join(data.decode(errors="replace").split())
