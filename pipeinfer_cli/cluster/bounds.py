"""Bounds on speed in closed form, without a simulation."""

from __future__ import annotations

from dataclasses import dataclass

from pipeinfer_cli.cluster.profile import Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Speeds in tokens per second."""

    iterative_tps: float  # each token passes all stages and links alone
    pipeline_tps: float  # a run of one token leaves the slowest part each time it can
    batched_tps: float  # the same with runs of the best size, every token right
    batch: int  # that size, in tokens
    draft_tps: float  # the drafter never waits


def bounds_of(profile: Profile, *, head_us: float, largest: int) -> Bounds:
    """The bounds for runs of at most `largest` tokens; `head_us` is the head's time per run."""
    head_s = head_us * 1e-6
    round_s = _compute_s(profile, 1)
    round_s += profile.result_link.delay_s(0) + head_s
    for index, link in enumerate(profile.links):
        round_s += link.delay_s(profile.run_bytes(index, 1))
    rates = {k: k / max(_interval_s(profile, k), head_s) for k in range(1, largest + 1)}
    batch = max(rates, key=lambda k: rates[k])
    return Bounds(
        iterative_tps=1 / round_s,
        pipeline_tps=rates[1],
        batched_tps=rates[batch],
        batch=batch,
        draft_tps=1000 / profile.draft_ms,
    )


def _interval_s(profile: Profile, n_tokens: int) -> float:
    """The least time from one run to the next: what the slowest stage or link needs."""
    links = (
        link.busy_s(profile.run_bytes(index, n_tokens)) for index, link in enumerate(profile.links)
    )
    return max(profile.slowest_ms(n_tokens) / 1000, *links)


class ProfileCosts:
    """A profile's costs, for pacing."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self.draft_s = profile.draft_ms / 1000

    def interval_s(self, n_tokens: int) -> float:
        """See run_size.Costs; links count, too."""
        return _interval_s(self._profile, n_tokens)

    def compute_s(self, n_tokens: int) -> float:
        """See run_size.Costs."""
        return _compute_s(self._profile, n_tokens)


def _compute_s(profile: Profile, n_tokens: int) -> float:
    """In all stages together."""
    return sum(stage.ms(n_tokens) for stage in profile.stages) / 1000
