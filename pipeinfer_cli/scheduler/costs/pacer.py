"""When the pipeline is ready for the next run: predicted from what was submitted.

A run that is composed before the slowest stage is free only waits there, while results come that
would have made it another one. So runs leave one by one, each when the one before is predicted to
leave that stage. Where the prediction is wrong, the depth still limits how many runs wait.
"""

from __future__ import annotations

from pipeinfer_cli.scheduler.costs.measured import MeasuredCosts


class StagePacer:
    """Of all runs of a pipeline, in the order of their submission. Times are one clock's, in s."""

    def __init__(self, costs: MeasuredCosts) -> None:
        self._costs = costs
        self._ends_s: dict[int, float] = {}  # by run id: when it is through the slowest stage

    @property
    def free_s(self) -> float:
        """When the slowest stage is free; a time in the past if it is."""
        return next(reversed(self._ends_s.values()), 0.0)

    def on_submit(self, run_id: int, n_tokens: int, now_s: float) -> None:
        """A run leaves now."""
        interval_s = self._costs.interval_s(n_tokens) if self._costs.is_known else 0.0
        self._ends_s[run_id] = max(now_s, self.free_s) + interval_s

    def on_cancel(self, run_first: int, run_last: int) -> None:
        """The runs `[run_first, run_last]` are given up."""
        for run_id in range(run_first, run_last + 1):
            self._ends_s.pop(run_id, None)

    def on_result(self, run_id: int) -> None:
        """A result has come."""
        self._ends_s.pop(run_id, None)
