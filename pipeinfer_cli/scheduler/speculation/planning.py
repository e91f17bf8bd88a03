"""What to feed and what to draft, by expected gain: closed forms over probabilities and costs.

All of it is in seconds of the text's time. A drafted node is right with the probability p of its
path, as the drafter sees it. With T(k) for the time of a run of k tokens in the slowest stage and
L(k) for that in all stages together, a run of the k best nodes with the mass M(k), the sum of their
probabilities, is worth

    W M(k) - T(k) - max(B(k) - B(u), 0) min(M(k), 1)

- W: a right node that is not in this run goes with the next one. What follows it is later by W: see
  `waiting_s`.
- One more token makes all that comes after the run later by T(k + 1) - T(k).
- B(k) = L(k) - T(k). Runs pass the stages in order, so those behind a large one travel as slowly as
  that, until a miss empties the pipeline. The verdict that shows the miss is late by the B of the
  largest run before it. Runs of the usual size u share in that price: `usual_size` takes it into
  account. A larger one pays what it adds, if it is on the text's way.

Sizes that were never seen cost as much as the largest one that was: so they are tried.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

LEAST_SHARE = 1e-3  # of best candidates that are right
N_AHEAD = 8  # nodes in vain after the best number of them, until the search for a better one ends


class RunWorth(NamedTuple):
    """What the worth of a run depends on besides its nodes: see above."""

    interval_s: Sequence[float]  # T(k), by k; T(0) is 0
    compute_s: Sequence[float]  # L(k)
    wait_s: float  # W
    usual: int  # u
    n_seen: int  # the largest size whose cost was seen

    def best_size(self, probabilities: Iterable[float], n_decided: int) -> int:
        """How many of the nodes, the most probable first, go into a run with n decided tokens.

        With none decided at least one does: a stage that would idle costs nothing.
        """
        interval_s, compute_s, wait_s, usual, n_seen = self
        usual_s = compute_s[usual] - interval_s[usual]
        mass, n_best, best_s = 0.0, 0, -float("inf")
        sizes = range(1, len(interval_s))
        for size, probability in zip(sizes, chain((1.0,) * n_decided, probabilities), strict=False):
            mass += probability
            if size < n_decided:
                continue
            seen = min(size, n_seen)
            worth_s = wait_s * mass - interval_s[seen]
            if (late_s := compute_s[seen] - interval_s[seen] - usual_s) > 0:
                worth_s -= late_s * min(mass, 1.0)
            if worth_s > best_s:
                n_best, best_s = size - n_decided, worth_s
            elif size - n_decided > n_best + N_AHEAD:
                break
        return n_best


def usual_size(interval_s: Sequence[float], compute_s: Sequence[float], right_share: float) -> int:
    """u: the run size with which chains take the least time per token; of equals the largest.

    `right_share`: how often the best candidate is right, after right ones. While they are, a run
    of k tokens brings r + r^2 + ... + r^k in T(k); with each miss, one in 1 / (1 - r) tokens, the
    verdict of the largest run is awaited: B(k).
    """
    best_s, n_best, n_right, reached = float("inf"), 1, 0.0, 1.0
    right_share = max(right_share, LEAST_SHARE)
    for size in range(1, len(interval_s)):
        reached *= right_share
        n_right += reached
        token_s = interval_s[size] / n_right
        token_s += (1 - right_share) * (compute_s[size] - interval_s[size])
        if token_s <= best_s:
            best_s, n_best = token_s, size
    return n_best


def waiting_s(interval_s: float, token_s: float | None) -> float:
    """W: 1/W^2 = 1/T(1)^2 + 1/t^2, with the time per token t of the text, None: unknown.

    The two bounds are T(1), after which the next run leaves, and, with few stages, what a token
    takes. Such a smooth minimum is fitted by simulation (make bench-choices).
    """
    if token_s is None:
        return interval_s
    return interval_s * token_s / math.hypot(interval_s, token_s)


def best_batch(probabilities: Sequence[float], draft_s: Sequence[float]) -> int:
    """How many nodes to expand in one pass of the drafter, the most probable first.

    `draft_s[m]` is its time for m nodes. As many as bring most per time, counted squared: a batch
    also delays those after it, which hold the continuation of its best nodes.
    """
    if draft_s[1] <= 0:
        return 1
    n_best, best, mass = 1, 0.0, 0.0
    for n, probability in enumerate(probabilities[: len(draft_s) - 1], 1):
        mass += probability
        rate = mass / draft_s[n] ** 2
        if rate > best:
            n_best, best = n, rate
    return n_best


def further_s(compute_s: Sequence[float], n_tokens: int) -> float:
    """The time of one more token in a run of n, in the cheapest of all longer runs.

    T(k) has steps, of kernels and of measuring: one that leads to cheap tokens is worth taking.
    """
    more = range(1, len(compute_s) - n_tokens)
    return min((compute_s[n_tokens + n] - compute_s[n_tokens]) / n for n in more)


def best_round_size(
    probabilities: Sequence[float], compute_s: Sequence[float], tokens_per_s: float
) -> int:
    """How many drafted tokens a synchronous run verifies with the decided one.

    A second is worth what it brings on the average of rounds, `tokens_per_s`: so a round that ends
    with the most tokens less its time's worth makes the average largest (renewal reward theory).
    """
    n_best, best, mass = 0, -tokens_per_s * compute_s[1], 0.0
    for n, probability in enumerate(probabilities[: len(compute_s) - 2], 1):
        mass += probability
        worth = mass - tokens_per_s * compute_s[n + 1]
        if worth > best:
            n_best, best = n, worth
    return n_best
