"""What the library does with model files: architectures that split, types, requantization."""

from __future__ import annotations

import ctypes
import itertools
import os
from collections.abc import Sequence
from ctypes import c_int32
from functools import cache
from itertools import takewhile
from pathlib import Path

from pipeinfer_cli.engine import abi
from pipeinfer_cli.engine.abi import ERROR_BYTES, OK, decoded
from pipeinfer_cli.errors import RunError

MAX_TENSOR_TYPES = 1024  # far more than there are: larger numbers are damage


@cache
def stage_archs() -> tuple[str, ...]:
    """The architectures (general.architecture) that can be split by layers, sorted."""
    names = takewhile(bool, (abi.load().pi_stage_arch(i) for i in itertools.count()))
    return tuple(sorted(decoded(name) for name in names))


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
    zero_key: str | None = None,
    notes: tuple[str, str, str],
) -> None:
    """Writes a GGUF again as another type (enum llama_ftype, or -1), and without some layers.

    The number `zero_key` of the metadata (uint32) becomes 0. The notes (source, its SHA-256, how),
    of at most 127 bytes each, go into the metadata. RunError if it fails; a full disk may go
    unnoticed, and a damaged file may end the process.
    """
    err = ctypes.create_string_buffer(ERROR_BYTES)
    params = abi.QuantizeParams(
        file_type,
        n_threads,
        len(left_out),
        (c_int32 * len(left_out))(*left_out),
        None if zero_key is None else zero_key.encode(errors="surrogateescape"),
        *(note.encode() for note in notes),
    )
    status = abi.load().pi_quantize(
        os.fsencode(source), os.fsencode(target), params, err, ERROR_BYTES
    )
    if status != OK:
        raise RunError(decoded(err.value))
