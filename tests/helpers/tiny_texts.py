"""The text that tests decode with tiny models, and what the unpatched llama.cpp says of it.

One text for all tests: its answer about a model is kept, and its beginning has the same logits.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from architectures import N_CTX, N_VOCAB
from support import plain_decode

IDS = [int(token) for token in np.random.default_rng(1).integers(3, N_VOCAB, 80)]


def plain_logits(path: Path, first_position: int = 0) -> list[str]:
    """SHA-256 of the logits of each position of IDS, decoded one token at a time."""
    request = {"model": str(path), "prompts": [IDS], "n_predict": 1, "n_ctx": N_CTX}
    request |= {"first_position": first_position}
    hashes: list[str] = plain_decode(request)[0]["logits"]
    return hashes
