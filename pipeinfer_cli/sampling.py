"""How a token is drawn from logits. The drawing itself is native: see native.sample."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeinfer_cli.errors import UserError

DEFAULT_SEED = 0  # fixed: the same command gives the same text
MAX_SEED = 2**64 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleParams:
    """See struct pi_sample_params. Raises UserError where it is built if a value makes no sense.

    The filters are llama.cpp's, in its order and with its defaults; they act when temperature > 0.
    """

    temperature: float = 0.0  # 0: greedy
    top_k: int = 40  # the most likely tokens to choose from; 0: all
    top_p: float = 0.95  # of these as few as have this probability together; 1: all
    min_p: float = 0.05  # of these the ones with this share of the largest probability; 0: all
    seed: int = DEFAULT_SEED

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UserError(f"--temp {self.temperature:g}: give a number of 0 (greedy) or more")
        if not 0 <= self.top_k < 2**31:
            raise UserError(f"--top-k {self.top_k}: give a number of tokens, or 0 for all")
        if not 0 <= self.top_p <= 1:
            raise UserError(f"--top-p {self.top_p:g}: give a probability from 0 to 1 (off)")
        if not 0 <= self.min_p <= 1:
            raise UserError(f"--min-p {self.min_p:g}: give a share from 0 (off) to 1")
        if not 0 <= self.seed <= MAX_SEED:
            raise UserError(f"--seed {self.seed}: give a whole number from 0 to {MAX_SEED}")


DEFAULT_SAMPLE = SampleParams()  # greedy
