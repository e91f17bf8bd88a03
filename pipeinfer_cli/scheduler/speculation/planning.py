"""What to feed and what to draft, by expected gain: closed forms over probabilities and costs.

All of it is in seconds of the text's time. A drafted node is right with the probability p of its
path, as the drafter sees it. With T(k) for the time of a run of k tokens in the slowest stage and
L(k) for that in all stages together:

- A right node that is not in this run goes with the next one, T(1) later. What follows it is later
  by W, less than that where a run decides several tokens: see `waiting_s`.
- One more token makes all that comes after the run later by T(k + 1) - T(k).
- It makes the run's own verdicts later by L(k + 1) - L(k). That matters where the text waits for
  one of them: where the token after a right node of this run was not fed before. With a share c of
  the text's tokens that are fed before they are decided, a run of the mass M (the sum of its nodes'
  probabilities) is waited for with the probability (1 - c) M.

So a run of the k best nodes is worth W M(k) - T(k) - (L(k) - T(k)) (1 - c) M(k), up to a constant.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

N_AHEAD = 8  # nodes in vain after the best number of them, until the search for a better one ends


class RunWorth(NamedTuple):
    """What the worth of a run depends on besides its nodes: see above."""

    interval_s: Sequence[float]  # T(k), by k; T(0) is 0
    compute_s: Sequence[float]  # L(k)
    wait_s: float  # W
    coverage: float  # c

    def best_size(self, probabilities: Iterable[float], n_decided: int) -> int:
        """How many of the nodes, the most probable first, go into a run with n decided tokens.

        With none decided at least one does: a stage that would idle costs nothing.
        """
        interval_s, compute_s, wait_s, coverage = self
        first_beyond_s = compute_s[1] - interval_s[1]
        late_share = 1 - coverage
        mass, n_best, best_s = 0.0, 0, -float("inf")
        sizes = range(1, len(interval_s))
        for size, probability in zip(sizes, chain((1.0,) * n_decided, probabilities), strict=False):
            mass += probability
            if size < n_decided:
                continue
            beyond_s = compute_s[size] - interval_s[size] - first_beyond_s
            worth_s = wait_s * mass - interval_s[size] - beyond_s * late_share * mass
            if worth_s > best_s:
                n_best, best_s = size - n_decided, worth_s
            elif size - n_decided > n_best + N_AHEAD:
                break
        return n_best


def waiting_s(interval_s: float, token_s: float | None) -> float:
    """W: 1/W = 1/T(1) + 1/(2 t), with the time per token t of the text, None: unknown.

    The two bounds are T(1) and, with few stages, what a token takes. That they are met half-way is
    fitted by simulation (make bench-choices): within a percent of the minimum of both where drafts
    are often wrong, up to 8 % faster where they are mostly right.
    """
    if token_s is None:
        return interval_s
    return interval_s * token_s / (token_s + interval_s / 2)


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
