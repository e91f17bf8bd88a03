"""When the pipeline is ready for the next run: predicted from what was submitted.

A run that is composed before the slowest stage is free only waits there, while results come that
would have made it another one. So runs leave one by one, each when the one before is predicted to
leave that stage. In a full pipeline a result is due at about the same time; a run waits for it, as
it is worth more than the moment that it costs. Where the prediction is wrong, the depth still
limits how many runs wait.
"""

from __future__ import annotations

from typing import NamedTuple

from pipeinfer_cli.scheduler.costs.measured import EWMA_DECAY, MeasuredCosts

SLACK = 0.05  # of a run of one token in the slowest stage: for that long a result is waited for


class _Times(NamedTuple):
    """Of a run, predicted."""

    through_s: float  # the slowest stage is through with it
    result_s: float  # its result comes, if links and head took no time


class StagePacer:
    """Of all runs of a pipeline, in the order of their submission. Times are one clock's, in s."""

    def __init__(self, costs: MeasuredCosts) -> None:
        self._costs = costs
        self._runs: dict[int, _Times] = {}  # by run id
        self._lag_s = 0.0  # how much later than predicted results come
        self._leave_s: float | None = None  # once it was asked for, until something changes

    @property
    def leave_s(self) -> float:
        """When the next run shall leave; a time in the past if it is now."""
        if self._leave_s is None:
            self._leave_s = self._next_leave_s()
        return self._leave_s

    def _next_leave_s(self) -> float:
        if not self._runs or not self._costs.is_known:
            return 0.0
        free_s = next(reversed(self._runs.values())).through_s
        due_s = next(iter(self._runs.values())).result_s + self._lag_s
        slack_s = SLACK * self._costs.interval_s(1)
        return due_s + slack_s if abs(due_s - free_s) <= slack_s else free_s

    def on_submit(self, run_id: int, n_tokens: int, now_s: float) -> None:
        """A run leaves now."""
        self._leave_s = None
        through_s = now_s
        if self._runs:
            through_s = max(now_s, next(reversed(self._runs.values())).through_s)
        result_s = through_s
        if self._costs.is_known:
            through_s += self._costs.interval_s(n_tokens)
            result_s += self._costs.compute_s(n_tokens)
        self._runs[run_id] = _Times(through_s, result_s)

    def on_cancel(self, run_first: int, run_last: int) -> None:
        """The runs `[run_first, run_last]` are given up."""
        self._leave_s = None
        for run_id in range(run_first, run_last + 1):
            self._runs.pop(run_id, None)

    def on_result(self, run_id: int, now_s: float) -> None:
        """A result comes now."""
        self._leave_s = None
        times = self._runs.pop(run_id, None)
        if times is not None:
            lag_s = max(now_s - times.result_s, 0.0)
            self._lag_s = EWMA_DECAY * self._lag_s + (1 - EWMA_DECAY) * lag_s
