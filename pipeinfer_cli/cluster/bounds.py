"""Bounds on speed in closed form, without a simulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeinfer_cli.cluster.profile import Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Speeds in tokens per second."""

    iterative_tps: float  # each token passes all stages and links alone
    pipeline_tps: float  # a run of one token leaves the slowest part each time it can
    batched_tps: float  # the same with runs of the best size, every token right: none is faster
    batch: int  # that size, in tokens
    draft_tps: float  # the drafter alone, if it never waits

    @property
    def drafted_tps(self) -> float:
        """What this drafter allows: each token is drafted, or decided by a pass of its own."""
        return self.iterative_tps + self.draft_tps


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


@dataclass(frozen=True, slots=True, kw_only=True)
class TextBound:
    """The least time that a text takes on a cluster, whatever the scheduler does.

    A token that the drafter does not know starts all over: what follows it is drafted, and passes
    the stages, after it is decided. Of the tokens after it, the last one is decided a pass later
    than it is drafted; those in between are drafted one by one, or decided by passes of their own.
    """

    profile: Profile
    bounds: Bounds  # for the largest runs that there are
    largest: int  # tokens in a run
    n_prompt: int  # tokens, in one run

    def least_s(self, known: Sequence[bool], *, first_s: float) -> float:
        """From the first token to the last. `known[i]`: the drafter may know generated token i.

        `first_s` is when the first one is decided; drafts may have been made since 0.
        """
        token_s = min(1 / self.bounds.draft_tps, 1 / self.bounds.iterative_tps)
        round_s = 1 / self.bounds.iterative_tps
        total_s, n_known = 0.0, 0  # of these, since the last one that was not known
        head_start_s = first_s if known[0] else 0.0
        for index, is_known in enumerate(known[1:], 1):
            n_known += is_known
            if is_known and index < len(known) - 1:
                continue
            n_drafted = n_known - 1 if is_known else n_known  # the last run's tokens, and before
            drafted_s = round_s + n_drafted * token_s - head_start_s
            passed_s = 0.0 if head_start_s else (n_drafted + 1) / self.bounds.batched_tps
            total_s += max(drafted_s, passed_s, 0.0)
            n_known, head_start_s = 0, 0.0
        return max(total_s, self._passing_s(len(known) - 1))

    def _passing_s(self, n_tokens: int) -> float:
        """What any stage needs for the tokens after the first, which comes behind the prompt."""
        profile = self.profile
        late_s, found_s = 0.0, 0.0  # the prompt is slower than a token beyond the stage by late_s
        for index in reversed(range(profile.n_stages)):
            stage = profile.stages[index]
            best_ms = min(stage.ms(k) / k for k in range(1, self.largest + 1))
            found_s = max(found_s, n_tokens * best_ms / 1000 - late_s)
            late_s += (stage.ms(self.n_prompt) - stage.ms(1)) / 1000
            n_bytes = profile.run_bytes(index, self.n_prompt) - profile.run_bytes(index, 1)
            late_s += profile.links[index].busy_s(n_bytes)
        return found_s


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
