"""Pieces of a GGUF's header as bytes."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from pipeinfer_cli.models.gguf.reader import ARRAY, FORMATS, STRING, Scalar, Tensor


def field(name: str, kind: int, value: Scalar) -> bytes:
    """One entry of the metadata as bytes."""
    return text(name) + struct.pack("<I", kind) + _encode_value(kind, value)


def array(name: str, element: int, values: Sequence[int]) -> bytes:
    """An array of numbers as bytes."""
    head = text(name) + struct.pack("<IIQ", ARRAY, element, len(values))
    return head + b"".join(_encode_value(element, value) for value in values)


def text(value: str) -> bytes:
    """A text as GGUF has it: its length in bytes, then the bytes."""
    data = value.encode(errors="surrogateescape")  # as the reader decodes
    return struct.pack("<Q", len(data)) + data


def tensor(each: Tensor) -> bytes:
    """A tensor's entry in the header."""
    n_dims = len(each.shape)
    head = text(each.name) + struct.pack(f"<I{n_dims}Q", n_dims, *each.shape)
    return head + struct.pack("<IQ", each.type_id, each.offset)


def _encode_value(kind: int, value: Scalar) -> bytes:
    if kind == STRING:
        assert isinstance(value, str)
        return text(value)
    return struct.pack(FORMATS[kind], value)
