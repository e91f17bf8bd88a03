"""Rotations of positions other than the GGUF's own, as llama.cpp's options have them."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, fields
from typing import Any

from pipeinfer_cli.checks import MAX_COUNT, check_count
from pipeinfer_cli.engine import abi
from pipeinfer_cli.errors import UserError

SCALINGS = {"none": 0, "linear": 1, "yarn": 2}  # enum llama_rope_scaling_type
OWN_SCALING = -1  # of these, the GGUF's own
OWN_YARN = -1.0  # as llama.cpp's options say that a value is the GGUF's own; of the others, 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """What each option says; None: as the GGUF has it. UserError if a value is invalid."""

    scaling: str | None = None
    scale: float | None = None  # by which the context is longer
    freq_base: float | None = None
    freq_scale: float | None = None  # the inverse of `scale`
    yarn_orig_ctx: int | None = None  # tokens
    yarn_ext_factor: float | None = None
    yarn_attn_factor: float | None = None
    yarn_beta_slow: float | None = None
    yarn_beta_fast: float | None = None

    def __post_init__(self) -> None:
        if self.scaling is not None and self.scaling not in SCALINGS:
            raise UserError(f"--rope-scaling {self.scaling!r}: give one of {', '.join(SCALINGS)}")
        if self.scale is not None and self.freq_scale is not None:
            raise UserError("--rope-scale and --rope-freq-scale say the same: give one of them")
        _check("--rope-scale", self.scale)
        _check("--rope-freq-base", self.freq_base, own=0.0)
        _check("--rope-freq-scale", self.freq_scale, own=0.0)
        check_count("--yarn-orig-ctx", self.yarn_orig_ctx, least=0, most=MAX_COUNT)
        if self.yarn_ext_factor != 0:  # none of it: interpolation alone
            _check("--yarn-ext-factor", self.yarn_ext_factor, own=OWN_YARN)
        _check("--yarn-attn-factor", self.yarn_attn_factor, own=OWN_YARN)
        _check("--yarn-beta-slow", self.yarn_beta_slow, own=OWN_YARN)
        _check("--yarn-beta-fast", self.yarn_beta_fast, own=OWN_YARN)

    def record(self) -> dict[str, Any]:
        """What was given, by name; nothing if all is as the GGUF has it."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def native(self) -> abi.Rope:
        """For the engine."""
        freq_scale = self.freq_scale
        if self.scale is not None:
            freq_scale = 1 / _float32(self.scale)
        return abi.Rope(
            scaling=OWN_SCALING if self.scaling is None else SCALINGS[self.scaling],
            freq_base=self.freq_base or 0.0,
            freq_scale=freq_scale or 0.0,
            yarn_ext_factor=_or_own(self.yarn_ext_factor),
            yarn_attn_factor=_or_own(self.yarn_attn_factor),
            yarn_beta_fast=_or_own(self.yarn_beta_fast),
            yarn_beta_slow=_or_own(self.yarn_beta_slow),
            yarn_orig_ctx=self.yarn_orig_ctx or 0,
        )


def _or_own(value: float | None) -> float:
    return OWN_YARN if value is None else value


def _check(option: str, value: float | None, own: float | None = None) -> None:
    """UserError unless it is above 0 and finite, also as a float32, and so is its inverse."""
    if value is None or value == own:
        return
    single = _float32(value)
    if not (single > 0 and math.isfinite(single) and math.isfinite(_float32(1 / single))):
        but = "" if own is None else f", or {own:g} for the model's own"
        raise UserError(f"{option} {value:g}: give a finite number above 0{but}")


def _float32(value: float) -> float:
    """As llama.cpp reads it."""
    try:
        single: float = struct.unpack("<f", struct.pack("<f", value))[0]
        return single
    except OverflowError:
        return math.inf


OWN_ROPE = RopeConfig()
