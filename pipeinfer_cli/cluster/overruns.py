"""Whether this machine was fast enough for the cluster that it emulates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipeinfer_cli.scheduler.runs import Result, RunStatus


@dataclass(slots=True)
class Overruns:
    """Counts what was computed, and what of it took longer than the profile asks.

    Delays of this machine before the compute, such as other processes on its cores, count with it.
    """

    n_computed: int = 0  # by a stage, for a run
    n_late: dict[int, int] = field(default_factory=dict)  # by stage
    worst_us: dict[int, int] = field(default_factory=dict)  # by stage
    n_drafted: int = 0  # tokens
    n_drafted_late: int = 0
    worst_draft_us: int = 0

    def count(self, result: Result) -> None:
        """Takes note of a run's times."""
        for part in result.times:
            self.n_computed += part.status is RunStatus.COMPLETED
            if part.late_us > 0:
                self.n_late[part.stage] = self.n_late.get(part.stage, 0) + 1
                self.worst_us[part.stage] = max(self.worst_us.get(part.stage, 0), part.late_us)

    def count_drafted(self, late_us: int, n: int = 1) -> None:
        """Takes note of n drafted tokens, and of how much too late they were (0: in time)."""
        self.n_drafted += n
        self.n_drafted_late += n if late_us > 0 else 0
        self.worst_draft_us = max(self.worst_draft_us, late_us)

    @property
    def n_late_in_all(self) -> int:
        """Computations and drafted tokens that were too late."""
        return sum(self.n_late.values()) + self.n_drafted_late

    def notes(self) -> list[str]:
        """Lines for people; none if all was in time."""
        notes = []
        if self.n_late:
            stages = ", ".join(map(str, sorted(self.n_late)))
            notes.append(
                f"emulation: {sum(self.n_late.values())} of {self.n_computed} stage computations "
                f"were slower than the profile, by up to {max(self.worst_us.values()) / 1000:.1f} "
                f"ms (stages {stages}): use a smaller model or more free cores"
            )
        if self.n_drafted_late:
            notes.append(
                f"emulation: {self.n_drafted_late} of {self.n_drafted} drafted tokens were slower "
                f"than the profile, by up to {self.worst_draft_us / 1000:.1f} ms: use a smaller "
                "draft model or more free cores"
            )
        return notes

    def as_dict(self) -> dict[str, Any]:
        """For --format json: counts, and the worst excess in ms."""
        return {
            "n_computed": self.n_computed,
            "n_late": sum(self.n_late.values()),
            "worst_late_ms": max(self.worst_us.values(), default=0) / 1000,
            "n_drafted": self.n_drafted,
            "n_drafted_late": self.n_drafted_late,
            "worst_draft_late_ms": self.worst_draft_us / 1000,
        }
