"""The runs of one request in flight, and which of them to cancel."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from pipeinfer_cli.scheduler.metrics import Counters
from pipeinfer_cli.scheduler.runs import Result, Run, RunStatus
from pipeinfer_cli.scheduler.token_tree import Node


class CancelReason(enum.Enum):
    """Why a run is given up."""

    INVALIDATED = enum.auto()  # it rests on a wrong token
    SUPERFLUOUS = enum.auto()  # the text is long enough without it


@dataclass(slots=True, eq=False)
class InFlightRun:
    """A run that has no result yet."""

    run_id: int
    n_tokens: int
    nodes: tuple[Node, ...]  # those of its tokens that want a row
    n_possible: int  # of these, the ones that are not known to be wrong
    is_live: bool = True  # still believed


class InFlightRuns:
    """Runs in the order of submission, which is that of their results."""

    def __init__(self, counters: Counters, *, no_cancel: bool) -> None:
        self._counters = counters
        self._no_cancel = no_cancel  # what is given up is computed to its end
        self._runs: deque[InFlightRun] = deque()
        self._run_of: dict[Node, InFlightRun] = {}  # by the nodes of runs in flight
        self._wrong: list[InFlightRun] = []  # live ones all of whose nodes are dead
        self._cancels: list[tuple[int, int]] = []  # [first, last] run ids
        self.n_live = 0

    @property
    def is_idle(self) -> bool:
        """True if no run is in flight."""
        return not self._runs

    def add(self, run: Run, nodes: Iterable[Node]) -> None:
        """The run is on its way."""
        rows = tuple(nodes)
        added = InFlightRun(run.run_id, len(run.tokens), rows, len(rows))
        self._runs.append(added)
        for node in rows:
            self._run_of[node] = added
        self.n_live += 1
        self._counters.n_launched += 1
        self._counters.live_sum += self.n_live

    def complete(self, result: Result) -> InFlightRun:
        """The run whose result this is; its nodes know now what the target says follows them."""
        run = self._runs.popleft()
        assert result.run_id == run.run_id, "results come in the order of submission"
        for node in run.nodes:
            del self._run_of[node]
        if run in self._wrong:
            self._wrong.remove(run)
        if run.is_live:
            assert result.status is RunStatus.COMPLETED, "a live run is never cancelled"
            self.n_live -= 1
            for node, row in zip(run.nodes, result.rows, strict=True):
                node.next_token = row
        return run

    def give_up_wrong(self, dead: Iterable[Node]) -> None:
        """Gives up what holds nothing but dead nodes, these among them, unless a run rests on it.

        A run of several branches may be half dead. It is decoded, so that the cells before its
        dead half have to be there, too.
        """
        for node in dead:
            if node.is_fed and (run := self._run_of.get(node)) is not None:
                run.n_possible -= 1
                if run.n_possible == 0 and run.is_live:
                    self._wrong.append(run)
        if not self._wrong:
            return
        for run in sorted(self._wrong, key=lambda run: run.run_id, reverse=True):
            if not self._is_needed(run):
                self._give_up((run,), CancelReason.INVALIDATED)
        self._wrong = [run for run in self._wrong if run.is_live]

    def _is_needed(self, run: InFlightRun) -> bool:
        """Whether a live run rests on this one."""
        return any(
            above is not None and above is not run and above.is_live
            for node in run.nodes
            for above in map(self._run_of.get, node.children.values())
        )

    def give_up_all(self) -> None:
        """Gives up everything."""
        self._give_up(reversed(self._runs), CancelReason.SUPERFLUOUS)

    def take_cancels(self) -> list[tuple[int, int]]:
        """Ranges `[first, last]` of run ids to give up now, in this order."""
        cancels, self._cancels = self._cancels, []
        return cancels

    def _give_up(self, runs: Iterable[InFlightRun], reason: CancelReason) -> None:
        """Cancels runs, the latest first: a run never lives longer than those it rests on."""
        for run in runs:
            if not run.is_live:
                continue
            run.is_live = False
            self.n_live -= 1
            if reason is CancelReason.INVALIDATED:
                self._counters.n_invalidated += 1
            else:
                self._counters.n_superfluous += 1
            if not self._no_cancel:
                add_cancel(self._cancels, run.run_id)


def add_cancel(cancels: list[tuple[int, int]], run_id: int) -> None:
    """One more run to give up: it widens the last range `[first, last]` if it comes before that."""
    if cancels and cancels[-1][0] == run_id + 1:
        cancels[-1] = (run_id, cancels[-1][1])
    else:
        cancels.append((run_id, run_id))
