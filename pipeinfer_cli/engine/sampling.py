"""Draws tokens from logits, as the last stage does."""

from __future__ import annotations

from ctypes import POINTER, c_float, c_int32
from dataclasses import astuple
from functools import cache
from typing import TYPE_CHECKING, Any

from pipeinfer_cli.engine import abi
from pipeinfer_cli.engine.abi import OK
from pipeinfer_cli.scheduler.runs import SampleParams

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MAX_TOP = 16  # tokens of one sample_top


def sample(
    logits: npt.NDArray[np.float32], position: int, params: SampleParams
) -> tuple[int, float]:
    """Draws the token to stand at `position`, as the last stage does.

    `logits` is float32 `[n_vocab]`, contiguous, of the token before that position.

    Returns the token id and its softmax probability over the whole vocabulary at temperature 1,
    without filters. A pure function of its arguments: noise depends on seed, position and token id.
    """
    token = c_int32()
    probability = c_float()
    status = abi.load().pi_sample(
        *_array(logits), position, native_sample(params), token, probability
    )
    assert status == OK, "n_vocab is 1 or more, and position 0 or more"
    return token.value, probability.value


def sample_top(
    logits: npt.NDArray[np.float32], position: int, params: SampleParams, n: int
) -> list[tuple[int, float]]:
    """The n (1 to MAX_TOP) best tokens in the order of the draw, the first one `sample`'s.

    Each with its probability, as there. Fewer than n if filters or the vocabulary leave fewer.
    """
    tokens = (c_int32 * MAX_TOP)()
    probabilities = (c_float * MAX_TOP)()
    n_found = c_int32()
    status = abi.load().pi_sample_top(
        *_array(logits), position, native_sample(params), n, n_found, tokens, probabilities
    )
    assert status == OK, f"n_vocab is 1 or more, position 0 or more, and n 1 to {MAX_TOP}"
    return list(zip(tokens[: n_found.value], probabilities[: n_found.value], strict=True))


def _array(logits: npt.NDArray[np.float32]) -> tuple[Any, int]:
    assert logits.dtype == "float32" and logits.ndim == 1 and logits.flags.c_contiguous
    return logits.ctypes.data_as(POINTER(c_float)), len(logits)


@cache
def native_sample(params: SampleParams) -> abi.SampleParams:
    """The parameters as the library takes them."""
    return abi.SampleParams(*astuple(params))
