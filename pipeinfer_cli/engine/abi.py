"""The C ABI of native/include/pipeinfer.h: its structures and functions, as ctypes sees them.

Names are the header's, without `pi_`; what they mean stands there.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from ctypes import (
    POINTER,
    c_char,
    c_char_p,
    c_double,
    c_float,
    c_int,
    c_int32,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
)
from ctypes import c_void_p as c_draft
from ctypes import c_void_p as c_engine
from ctypes import c_void_p as c_vocab
from functools import cache
from pathlib import Path
from typing import Any

from pipeinfer_cli.engine import loaded
from pipeinfer_cli.engine.build_info import LIB_DIR
from pipeinfer_cli.errors import UserError

ERROR_BYTES = 1024
OK, TIMEOUT, STOPPED = 0, 1, 2
ERR_INVALID, ERR_MODEL = -1, -2


class KvOp(ctypes.Structure):
    __slots__ = ()
    _fields_ = [
        ("kind", c_int32),
        ("seq_src", c_int32),
        ("seq_dst", c_int32),
        ("pos_first", c_int32),
        ("pos_last", c_int32),
    ]


class Token(ctypes.Structure):
    __slots__ = ()
    _fields_ = [
        ("id", c_int32),
        ("position", c_int32),
        ("n_seq", c_int32),
        ("want", c_int32),
        ("sample", c_int32),
        ("mask", c_int32),
    ]


class SampleParams(ctypes.Structure):
    __slots__ = ()
    _fields_ = [
        ("temperature", c_float),
        ("top_k", c_int32),
        ("top_p", c_float),
        ("min_p", c_float),
        ("seed", c_uint64),
    ]


class Run(ctypes.Structure):
    __slots__ = ()
    _fields_ = [
        ("run_id", c_uint64),
        ("n_kv_ops", c_int32),
        ("n_tokens", c_int32),
        ("n_seq_ids", c_int32),
        ("n_samples", c_int32),
        ("n_masks", c_int32),
        ("n_mask_words", c_int32),
        ("kv_ops", POINTER(KvOp)),
        ("tokens", POINTER(Token)),
        ("seq_ids", POINTER(c_int32)),
        ("samples", POINTER(SampleParams)),
        ("masks", POINTER(c_uint32)),
    ]


class StageTime(ctypes.Structure):
    __slots__ = ()
    _fields_ = [
        ("start_us", c_uint64),
        ("wait_us", c_uint32),
        ("compute_us", c_uint32),
        ("stage", c_int32),
        ("status", c_int32),
        ("in_bytes", c_uint32),
        ("late_us", c_uint32),
    ]


class Result(ctypes.Structure):
    __slots__ = ()
    _fields_ = [
        ("run_id", c_uint64),
        ("status", c_int32),
        ("n_rows", c_int32),
        ("n_times", c_int32),
        ("in_bytes", c_uint32),
        ("rows", POINTER(c_int32)),
        ("times", POINTER(StageTime)),
    ]


class Emulation(ctypes.Structure):
    __slots__ = ()
    _fields_ = [
        ("stage_us", POINTER(c_uint32)),
        ("n_stage_us", c_int32),
        ("latency_us", c_uint32),
        ("bytes_per_us", c_double),
        ("hidden_bytes", c_uint32),
    ]


class States(ctypes.Structure):
    __slots__ = ()
    _fields_ = [("n_places", c_int32), ("n_runs", c_int32), ("n_tokens", c_int32)]


class Adapter(ctypes.Structure):
    __slots__ = ()
    _fields_ = [("path", c_char_p), ("scale", c_float)]


class Rope(ctypes.Structure):
    __slots__ = ()
    _fields_ = [
        ("scaling", c_int32),
        ("freq_base", c_float),
        ("freq_scale", c_float),
        ("yarn_ext_factor", c_float),
        ("yarn_attn_factor", c_float),
        ("yarn_beta_fast", c_float),
        ("yarn_beta_slow", c_float),
        ("yarn_orig_ctx", c_int32),
    ]


class Devices(ctypes.Structure):
    __slots__ = ()
    _fields_ = [("names", POINTER(c_char_p)), ("n_names", c_int32), ("n_layers", c_int32)]


class DeviceBytes(ctypes.Structure):
    __slots__ = ()
    _fields_ = [("weights", c_uint64), ("cache", c_uint64), ("compute", c_uint64)]


class Mpi(ctypes.Structure):
    __slots__ = ()
    _fields_ = [
        ("library", c_char_p),
        ("handle_bytes", c_int32),
        ("status_bytes", c_int32),
        ("any_source", c_int32),
        ("byte_type", c_uint64),
        ("null_request", c_uint64),
        ("comm_data", c_uint64),
        ("comm_control", c_uint64),
    ]


class EngineParams(ctypes.Structure):
    __slots__ = ()
    _fields_ = [
        ("model_path", c_char_p),
        ("rank", c_int32),
        ("n_ranks", c_int32),
        ("stage_rank0", c_int32),
        ("layer_first", c_int32),
        ("layer_last", c_int32),
        ("n_ctx", c_int32),
        ("n_cells", c_int32),
        ("type_k", c_int32),
        ("type_v", c_int32),
        ("n_batch", c_int32),
        ("n_threads", c_int32),
        ("has_own_cores", c_int32),
        ("cpus", POINTER(c_int32)),
        ("n_cpus", c_int32),
        ("nodes", POINTER(c_int32)),
        ("n_nodes", c_int32),
        ("shares_cores", c_int32),
        ("reads_weights", c_int32),
        ("locks_memory", c_int32),
        ("mpi", POINTER(Mpi)),
        ("states", States),
        ("sample", SampleParams),
        ("emulation", POINTER(Emulation)),
        ("adapters", POINTER(Adapter)),
        ("n_adapters", c_int32),
        ("rope", Rope),
        ("devices", Devices),
        ("exact_shape", c_int32),
    ]


class QuantizeParams(ctypes.Structure):
    __slots__ = ()
    _fields_ = [
        ("file_type", c_int32),
        ("n_threads", c_int32),
        ("n_left_out", c_int32),
        ("left_out", POINTER(c_int32)),
        ("zero_key", c_char_p),
        ("note_source", c_char_p),
        ("note_sha256", c_char_p),
        ("note_how", c_char_p),
    ]


class DraftParams(ctypes.Structure):
    __slots__ = ()
    _fields_ = [
        ("model_path", c_char_p),
        ("n_ctx", c_int32),
        ("n_cells", c_int32),
        ("type_k", c_int32),
        ("type_v", c_int32),
        ("n_batch", c_int32),
        ("n_threads", c_int32),
        ("has_own_cores", c_int32),
        ("cpus", POINTER(c_int32)),
        ("n_cpus", c_int32),
        ("nodes", POINTER(c_int32)),
        ("n_nodes", c_int32),
        ("devices", Devices),
    ]


# In the order of pi_abi_sizes
MIRRORS = (
    KvOp,
    Token,
    Run,
    StageTime,
    Result,
    SampleParams,
    Emulation,
    EngineParams,
    QuantizeParams,
    DraftParams,
    Adapter,
    Rope,
    States,
    Mpi,
    Devices,
    DeviceBytes,
)


def lib_dir() -> Path:
    """Where libllama and libpipeinfer are: in the package, or where PIPEINFER_LIB_DIR says."""
    return Path(os.environ.get("PIPEINFER_LIB_DIR", LIB_DIR))


@cache
def load() -> Any:
    """The library with its prototypes declared. UserError if it is missing or another version."""
    path = lib_dir() / "libpipeinfer.so"
    try:
        lib = ctypes.CDLL(str(path))
    except OSError as error:
        raise UserError(f"cannot load {path}: {error}: {loaded.remedy(os.environ)}") from None
    loaded.check(lib_dir().glob("lib*.so"))
    _declare(lib)
    sizes = (c_size_t * len(MIRRORS))()
    lib.pi_abi_sizes(sizes)
    if list(sizes) != [ctypes.sizeof(mirror) for mirror in MIRRORS]:
        raise UserError(f"{path} is a different version than this package: install it again")
    return lib


def _declare(lib: Any) -> None:
    # void pi_abi_sizes(size_t sizes[16]);
    lib.pi_abi_sizes.argtypes = [POINTER(c_size_t)]
    lib.pi_abi_sizes.restype = None
    # void pi_log_capture(int32_t verbose);
    lib.pi_log_capture.argtypes = [c_int32]
    lib.pi_log_capture.restype = None
    # void pi_log_file(int32_t fd, const char * name);
    lib.pi_log_file.argtypes = [c_int32, c_char_p]
    lib.pi_log_file.restype = None
    # void pi_log_warnings(char * text, size_t size);
    lib.pi_log_warnings.argtypes = [c_char_p, c_size_t]
    lib.pi_log_warnings.restype = None
    # struct pi_vocab * pi_vocab_open(const char * path, char * err, size_t err_size);
    lib.pi_vocab_open.argtypes = [c_char_p, c_char_p, c_size_t]
    lib.pi_vocab_open.restype = c_vocab
    # int32_t pi_arch_states(const char * arch);
    lib.pi_arch_states.argtypes = [c_char_p]
    lib.pi_arch_states.restype = c_int32
    # const struct llama_model * pi_vocab_model(const struct pi_vocab * vocab);
    lib.pi_vocab_model.argtypes = [c_vocab]
    lib.pi_vocab_model.restype = c_void_p
    # int pi_vocab_tokenize(const struct pi_vocab * vocab, const char * text, size_t n_bytes,
    #                       int32_t n_max, int32_t * n, int32_t * tokens, char * err, size_t);
    lib.pi_vocab_tokenize.argtypes = [
        c_vocab,
        c_char_p,
        c_size_t,
        c_int32,
        POINTER(c_int32),
        POINTER(c_int32),
        c_char_p,
        c_size_t,
    ]
    lib.pi_vocab_tokenize.restype = c_int
    # void pi_vocab_close(struct pi_vocab * vocab);
    lib.pi_vocab_close.argtypes = [c_vocab]
    lib.pi_vocab_close.restype = None
    # const char * pi_stage_arch(int32_t i);
    lib.pi_stage_arch.argtypes = [c_int32]
    lib.pi_stage_arch.restype = c_char_p
    # int pi_tensor_type(int32_t type, int32_t * n_elements, int32_t * n_bytes);
    lib.pi_tensor_type.argtypes = [c_int32, POINTER(c_int32), POINTER(c_int32)]
    lib.pi_tensor_type.restype = c_int
    # const char * ggml_type_name(enum ggml_type type); of libggml, which comes with ours
    lib.ggml_type_name.argtypes = [c_int]
    lib.ggml_type_name.restype = c_char_p
    # ggml_backend_reg_t ggml_backend_load(const char * path); of libggml
    lib.ggml_backend_load.argtypes = [c_char_p]
    lib.ggml_backend_load.restype = c_void_p
    # ggml_backend_reg_t ggml_backend_reg_by_name(const char * name);
    lib.ggml_backend_reg_by_name.argtypes = [c_char_p]
    lib.ggml_backend_reg_by_name.restype = c_void_p
    # size_t ggml_backend_dev_count(void); of libggml, as are the next ones
    lib.ggml_backend_dev_count.argtypes = []
    lib.ggml_backend_dev_count.restype = c_size_t
    # ggml_backend_dev_t ggml_backend_dev_get(size_t index);
    lib.ggml_backend_dev_get.argtypes = [c_size_t]
    lib.ggml_backend_dev_get.restype = c_void_p
    # enum ggml_backend_dev_type ggml_backend_dev_type(ggml_backend_dev_t device);
    lib.ggml_backend_dev_type.argtypes = [c_void_p]
    lib.ggml_backend_dev_type.restype = c_int
    # const char * ggml_backend_dev_name(ggml_backend_dev_t device);
    lib.ggml_backend_dev_name.argtypes = [c_void_p]
    lib.ggml_backend_dev_name.restype = c_char_p
    # const char * ggml_backend_dev_description(ggml_backend_dev_t device);
    lib.ggml_backend_dev_description.argtypes = [c_void_p]
    lib.ggml_backend_dev_description.restype = c_char_p
    # void ggml_backend_dev_memory(ggml_backend_dev_t device, size_t * free, size_t * total);
    lib.ggml_backend_dev_memory.argtypes = [c_void_p, POINTER(c_size_t), POINTER(c_size_t)]
    lib.ggml_backend_dev_memory.restype = None
    # ggml_backend_reg_t ggml_backend_dev_backend_reg(ggml_backend_dev_t device);
    lib.ggml_backend_dev_backend_reg.argtypes = [c_void_p]
    lib.ggml_backend_dev_backend_reg.restype = c_void_p
    # const char * ggml_backend_reg_name(ggml_backend_reg_t reg);
    lib.ggml_backend_reg_name.argtypes = [c_void_p]
    lib.ggml_backend_reg_name.restype = c_char_p
    # const char * llama_print_system_info(void); of libllama
    lib.llama_print_system_info.argtypes = []
    lib.llama_print_system_info.restype = c_char_p
    # int pi_quantize(const char * source, const char * target,
    #                 const struct pi_quantize_params *, char * err, size_t err_size);
    lib.pi_quantize.argtypes = [c_char_p, c_char_p, POINTER(QuantizeParams), c_char_p, c_size_t]
    lib.pi_quantize.restype = c_int
    # int pi_sample(const float * logits, int32_t n_vocab, int32_t position,
    #               const struct pi_sample_params *, int32_t * token, float * probability);
    lib.pi_sample.argtypes = [
        POINTER(c_float),
        c_int32,
        c_int32,
        POINTER(SampleParams),
        POINTER(c_int32),
        POINTER(c_float),
    ]
    lib.pi_sample.restype = c_int
    # int pi_sample_top(const float * logits, int32_t n_vocab, int32_t position,
    #                   const struct pi_sample_params *, int32_t n_max, int32_t * n,
    #                   int32_t * tokens, float * probabilities);
    lib.pi_sample_top.argtypes = [
        POINTER(c_float),
        c_int32,
        c_int32,
        POINTER(SampleParams),
        c_int32,
        POINTER(c_int32),
        POINTER(c_int32),
        POINTER(c_float),
    ]
    lib.pi_sample_top.restype = c_int
    # struct pi_draft * pi_draft_open(const struct pi_draft_params *, int * status, char * err,
    #                                 size_t err_size);
    lib.pi_draft_open.argtypes = [POINTER(DraftParams), POINTER(c_int), c_char_p, c_size_t]
    lib.pi_draft_open.restype = c_draft
    # void pi_draft_vocab(struct pi_draft * draft, int32_t * n_tokens, int32_t * eos);
    lib.pi_draft_vocab.argtypes = [c_draft, POINTER(c_int32), POINTER(c_int32)]
    lib.pi_draft_vocab.restype = None
    # int pi_draft_expand(struct pi_draft * draft, const struct pi_run * run, int32_t n_vocab,
    #                     const struct pi_sample_params *, int32_t n_max, int32_t * n,
    #                     int32_t * tokens, float * probabilities);
    lib.pi_draft_expand.argtypes = [
        c_draft,
        POINTER(Run),
        c_int32,
        POINTER(SampleParams),
        c_int32,
        POINTER(c_int32),
        POINTER(c_int32),
        POINTER(c_float),
    ]
    lib.pi_draft_expand.restype = c_int
    # const char * pi_draft_error(struct pi_draft * draft);
    lib.pi_draft_error.argtypes = [c_draft]
    lib.pi_draft_error.restype = c_char_p
    # void pi_draft_close(struct pi_draft * draft);
    lib.pi_draft_close.argtypes = [c_draft]
    lib.pi_draft_close.restype = None
    # struct pi_engine * pi_engine_open(const struct pi_engine_params *, int * status, char * err,
    #                                   size_t err_size);
    lib.pi_engine_open.argtypes = [POINTER(EngineParams), POINTER(c_int), c_char_p, c_size_t]
    lib.pi_engine_open.restype = c_engine
    # int pi_submit(struct pi_engine * engine, const struct pi_run * run);
    lib.pi_submit.argtypes = [c_engine, POINTER(Run)]
    lib.pi_submit.restype = c_int
    # int pi_wait(struct pi_engine * engine, int32_t timeout_ms, struct pi_result * result);
    lib.pi_wait.argtypes = [c_engine, c_int32, POINTER(Result)]
    lib.pi_wait.restype = c_int
    # int pi_nudge(struct pi_engine * engine);
    lib.pi_nudge.argtypes = [c_engine]
    lib.pi_nudge.restype = c_int
    # int pi_cancel(struct pi_engine * engine, uint64_t run_first, uint64_t run_last);
    lib.pi_cancel.argtypes = [c_engine, c_uint64, c_uint64]
    lib.pi_cancel.restype = c_int
    # int pi_serve(struct pi_engine * engine, int32_t timeout_ms, int32_t * exit_code);
    lib.pi_serve.argtypes = [c_engine, c_int32, POINTER(c_int32)]
    lib.pi_serve.restype = c_int
    # int pi_report_failure(struct pi_engine * engine, const char * message);
    lib.pi_report_failure.argtypes = [c_engine, c_char_p]
    lib.pi_report_failure.restype = c_int
    # void pi_give_up(struct pi_engine * engine, const char * message);
    lib.pi_give_up.argtypes = [c_engine, c_char_p]
    lib.pi_give_up.restype = None
    # void pi_activity(struct pi_engine * engine, uint64_t values[4]);
    lib.pi_activity.argtypes = [c_engine, POINTER(c_uint64)]
    lib.pi_activity.restype = None
    # const char * pi_last_error(struct pi_engine * engine);
    lib.pi_last_error.argtypes = [c_engine]
    lib.pi_last_error.restype = c_char_p
    # int32_t pi_kv_positions(struct pi_engine * engine);
    lib.pi_kv_positions.argtypes = [c_engine]
    lib.pi_kv_positions.restype = c_int32
    # void pi_engine_device_bytes(struct pi_engine * engine, struct pi_device_bytes * bytes);
    lib.pi_engine_device_bytes.argtypes = [c_engine, POINTER(DeviceBytes)]
    lib.pi_engine_device_bytes.restype = None
    # const float * pi_last_logits(struct pi_engine * engine);
    lib.pi_last_logits.argtypes = [c_engine]
    lib.pi_last_logits.restype = POINTER(c_float)
    # void pi_engine_close(struct pi_engine * engine, int32_t exit_code);
    lib.pi_engine_close.argtypes = [c_engine, c_int32]
    lib.pi_engine_close.restype = None


def devices(names: Sequence[str], n_layers: int) -> Devices:
    """The structure that names devices."""
    encoded = [name.encode() for name in names]
    return Devices((c_char_p * len(encoded))(*encoded), len(encoded), n_layers)


def byte_buffer(size: int) -> ctypes.Array[c_char]:
    """Writable memory for llama-cpp-python's bindings to put bytes into; `.raw` reads it."""
    return ctypes.create_string_buffer(size)


def decoded(data: bytes) -> str:
    """A message of the library, in one line."""
    return " ".join(data.decode(errors="replace").split())
