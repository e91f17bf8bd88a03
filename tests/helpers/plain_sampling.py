"""What sampling shall do, in plain numpy: llama.cpp's filters and common Gumbel noise.

Knows nothing of pipeinfer. Parameters are dicts: temperature, top_k, top_p, min_p, seed.
"""

from __future__ import annotations

import numpy as np

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def sample(logits, position, params):
    """The token to stand at `position`, from float32 logits `[n_vocab]`."""
    if params["temperature"] == 0:
        return int(np.argmax(logits))
    kept = np.sort(keep(logits, params))
    scores = logits[kept].astype(np.float64) / np.float32(params["temperature"])
    return int(kept[np.argmax(scores + gumbel(params["seed"], position, kept))])


def keep(logits, params):
    """The ids that top-k, top-p and min-p leave, the most likely first."""
    order = np.argsort(-logits, kind="stable")
    order = order[: params["top_k"] or None]
    if params["top_p"] < 1:
        reached = np.cumsum(softmax(logits[order])) >= np.float32(params["top_p"])
        order = order[: int(np.argmax(reached)) + 1] if reached.any() else order
    if params["min_p"] > 0:
        order = order[logits[order] >= logits[order[0]] + np.log(np.float32(params["min_p"]))]
    return order


def softmax(logits, temperature=1.0):
    """Probabilities, float64."""
    weights = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    return weights / weights.sum()


def distribution(logits, params):
    """The probability of each token, float64 `[n_vocab]`: what ordinary sampling draws from."""
    kept = keep(logits, params)
    probabilities = np.zeros(len(logits))
    probabilities[kept] = softmax(logits[kept], np.float32(params["temperature"]))
    return probabilities


def gumbel(seed, position, ids):
    """Standard Gumbel noise, float64, one number per id."""
    state = splitmix64(mix64(seed), position)
    bits = np.array([splitmix64(state, int(token)) >> 12 for token in ids], dtype=np.float64)
    return -np.log(-np.log((bits + 0.5) * 2.0**-52))


def splitmix64(state, index):
    """Output number `index`, from 0, of the generator whose state starts at `state`."""
    return mix64((state + (index + 1) * GOLDEN) & MASK)


def mix64(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)
