"""What a drafter's confidence is worth: its probabilities, corrected by how often it was right.

A drafter that is close to its target picks the same token wherever the second candidate is clearly
behind, however sure of it either of them is. So it is not the best probability alone that counts:
candidates get shares of the weights

    w(i) = p(i)^sharpness, times e^lead for the best one

and all other tokens together as much as if they were equals of the last candidate, times e^-behind.
The power is temperature scaling (Guo et al., "On Calibration of Modern Neural Networks", 2017). The
lead is for texts that are sampled: there the best candidate is the one that the same random number
draws, however improbable.

The three parameters are learned from the positions that the target has decided, one step each: the
gradient of the logarithm of what happened, over its information (an extended Kalman filter for each
parameter, as if the others were known). They change what is drafted and fed, never the text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import mul
from typing import NamedTuple

from pipeinfer_cli.scheduler.interfaces import Candidate

MOST = 0.999  # nothing is certain
LEAST = 1e-6  # of a candidate, for its logarithm
LEAST_OTHERS = 1e-3  # of all tokens that are not candidates
MOST_WEIGHT = 1e9  # far more than can be seen
DECAY = 0.995  # how much of the information a further position leaves
MAX_STEP = 0.7


class Prior(NamedTuple):
    """What a parameter is before anything was learned, and within which bounds it stays."""

    value: float
    weight: float  # information, as if seen
    low: float
    high: float


# Fitted to recordings of drafts of one target (make bench-acceptance, make bench-confidence).
PRIORS = (
    Prior(math.log(2), 1.0, math.log(0.1), math.log(32)),  # of the logarithm of the sharpness
    Prior(0.0, 2.0, -8.0, 8.0),  # of the lead
    Prior(1.0, 4.0, -8.0, 8.0),  # of how far the others are behind
)


class Estimate(NamedTuple):
    """A parameter as it is known."""

    value: float
    weight: float  # the information that it rests on, its prior's included

    def learn(self, prior: Prior, gradient: float, information: float) -> Estimate:
        """One more position was decided."""
        weight = prior.weight + DECAY * (self.weight - prior.weight) + information
        step = min(max(gradient / weight, -MAX_STEP), MAX_STEP)
        return Estimate(min(max(self.value + step, prior.low), prior.high), weight)


PRIORS_KNOWN = tuple(Estimate(prior.value, prior.weight) for prior in PRIORS)


class Confidence:
    """Learned for one pair of target and drafter; outlives its requests."""

    def __init__(self, known: Sequence[Sequence[float]] = ()) -> None:
        """What is known already: `known` of another one. ValueError if it cannot be that."""
        self.known = tuple(Estimate(*each) for each in known or PRIORS_KNOWN)
        self.n_decided = 0  # positions that were learned from, since then
        for prior, (value, weight) in zip(PRIORS, self.known, strict=True):
            if not prior.low <= value <= prior.high:
                raise ValueError("a value out of bounds")
            if not prior.weight <= weight <= MOST_WEIGHT:
                raise ValueError("a weight that cannot be")

    def probabilities(self, candidates: Sequence[Candidate], least: float = 0.0) -> list[float]:
        """Of the candidates for a position; together at most 1.

        Last ones with less than `least` are left out.
        """
        if not candidates:
            return []
        shares, _ = _shares(self.known, candidates)
        n_kept = max((n for n, share in enumerate(shares[:-1], 1) if share >= least), default=0)
        return [min(share, MOST) for share in shares[:n_kept]]

    def on_decided(self, candidates: Sequence[Candidate], token: int) -> None:
        """The target has decided what follows where these were the candidates."""
        if not candidates or not math.isfinite(sum(probability for _, probability in candidates)):
            return  # nothing is learned from a broken drafter
        self.n_decided += 1
        shares, log_powers = _shares(self.known, candidates)
        ids = [candidate for candidate, _ in candidates]
        found = ids.index(token) if token in ids else -1  # among all others

        mean = sum(map(mul, shares, log_powers))
        spread = sum(
            share * (log_power - mean) ** 2
            for share, log_power in zip(shares, log_powers, strict=True)
        )
        best, others = shares[0], shares[-1]
        seen = (
            (log_powers[found] - mean, spread),
            ((found == 0) - best, best * (1 - best)),
            (others - (found == -1), others * (1 - others)),
        )
        self.known = tuple(
            estimate.learn(prior, *each)
            for estimate, prior, each in zip(self.known, PRIORS, seen, strict=True)
        )


def _shares(
    known: Sequence[Estimate], candidates: Sequence[Candidate]
) -> tuple[list[float], list[float]]:
    """How probable each candidate is, and last, all other tokens together: 1 in all.

    And the logarithms of the powers in their weights, which grow with the sharpness.
    """
    sharpness, lead, behind = math.exp(known[0].value), known[1].value, known[2].value
    logs = [math.log(max(probability, LEAST)) for _, probability in candidates]
    others = max(1 - sum(probability for _, probability in candidates), LEAST_OTHERS)
    log_powers = [sharpness * log for log in (*logs, logs[-1])]
    scores = log_powers.copy()
    scores[0] += lead
    scores[-1] += math.log(others) - logs[-1] - behind  # as many as equal the last candidate
    most = max(scores)
    weights = [math.exp(score - most) for score in scores]
    total = sum(weights)
    return [weight / total for weight in weights], log_powers
