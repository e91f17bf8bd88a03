"""What happens in one request, counted by its scheduler."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeinfer_cli.runs import Fate, Result


@dataclass(slots=True)
class Counters:
    """What has happened so far."""

    n_drafted: int = 0  # speculative tokens that were submitted
    n_accepted: int = 0  # of these, the ones that the target decided, too
    n_decided: int = 0  # generated tokens
    n_launched: int = 0  # runs
    n_completed: int = 0  # runs that every stage decoded
    n_invalidated: int = 0  # runs given up because they rest on a wrong token
    n_superfluous: int = 0  # runs given up because the text was long enough without them
    n_verified: int = 0  # live runs whose result decided tokens
    ahead_drafted: dict[int, int] = field(default_factory=dict)  # by tokens ahead of the text, 1...
    ahead_accepted: dict[int, int] = field(default_factory=dict)
    n_cancelled: int = 0  # of the runs given up: by a stage before its end
    n_aborted: int = 0  # of these, in mid-compute
    busy_us: dict[int, int] = field(default_factory=dict)  # compute, by stage
    wasted_us: dict[int, int] = field(default_factory=dict)  # of it, for tokens that were wrong
    n_messages: int = 0  # between processes, with runs and results
    n_bytes: int = 0  # in them
    live_sum: int = 0  # live runs in flight, summed over the submissions

    def on_drafted(self, ahead: int) -> None:
        """A drafted token was submitted, so many tokens ahead of the text."""
        self.n_drafted += 1
        _count(self.ahead_drafted, ahead)

    def on_accepted(self, ahead: int) -> None:
        """The target decided a token that was drafted and submitted."""
        self.n_accepted += 1
        _count(self.ahead_accepted, ahead)

    def on_result(self, result: Result, *, n_tokens: int, n_wrong: int) -> None:
        """A run of `n_tokens` is over; so many of them are not in the text."""
        self.n_completed += result.fate is Fate.COMPLETED
        self.n_cancelled += result.fate is Fate.CANCELLED
        self.n_aborted += any(part.fate is Fate.ABORTED for part in result.times)
        sizes = [*(part.in_bytes for part in result.times), result.in_bytes]
        self.n_messages += sum(size > 0 for size in sizes)
        self.n_bytes += sum(sizes)
        for part in result.times:
            _count(self.busy_us, part.stage, part.compute_us)
            _count(self.wasted_us, part.stage, part.compute_us * n_wrong // n_tokens)


def _count(counts: dict[int, int], key: int, amount: int = 1) -> None:
    counts[key] = counts.get(key, 0) + amount
