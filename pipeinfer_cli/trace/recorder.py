"""What happened in one request, as plain values: runs, cancels, results, drafted tokens.

All times are in seconds of the head's clock, but for the stages' own in `Result.times`; see
`timeline`, which brings them together.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Reversible, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

from pipeinfer_cli.scheduler.interfaces import Candidate, DraftBatch, Drafter
from pipeinfer_cli.scheduler.runs import Result, Run

Clock = Callable[[], float]
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A run from its submission to its result."""

    run: Run
    submit_s: float
    n_prefill: int  # of its tokens: of the prompt
    n_speculative: int  # of its tokens: not decided when it was submitted
    result: Result | None = None  # None: still in flight when the recording ended
    result_s: float = 0.0
    decided: tuple[int, ...] = ()  # token ids that the result decided
    n_accepted: int = 0  # of these: as drafted, and on their way already


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRecord:
    """The head gave up the runs `[run_first, run_last]`."""

    run_first: int
    run_last: int
    time_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftRecord:
    """The drafter was at work on one token, wanted or not."""

    begin_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One request, from its first run on."""

    n_prompt: int  # tokens
    n_stages: int
    runs: tuple[RunRecord, ...]  # in the order of submission
    cancels: tuple[CancelRecord, ...]
    drafts: tuple[DraftRecord, ...]

    @property
    def start_s(self) -> float:
        """When the first run was submitted."""
        return self.runs[0].submit_s if self.runs else 0.0

    @property
    def end_s(self) -> float:
        """When the last result came."""
        return max((each.result_s for each in self.runs if each.result), default=self.start_s)

    @property
    def decided_s(self) -> tuple[float, ...]:
        """When each token of the text was decided."""
        return tuple(each.result_s for each in self.runs for _ in each.decided)


class Recorder:
    """An interfaces.Observer that keeps what it is told. `clock` may be a virtual one.

    It may be read on any thread.
    """

    def __init__(self, *, n_prompt: int, n_stages: int, clock: Clock = time.monotonic) -> None:
        self._n_prompt = n_prompt
        self._n_stages = n_stages
        self._clock = clock
        self._lock = threading.Lock()
        self._n_text = n_prompt  # tokens that are decided, the prompt's included
        self._runs: dict[int, RunRecord] = {}
        self._cancels: list[CancelRecord] = []
        self._drafts: list[DraftRecord] = []  # filled by the drafting thread

    def on_submit(self, run: Run) -> None:
        """See interfaces.Observer."""
        record = RunRecord(
            run=run,
            submit_s=self._clock(),
            n_prefill=sum(t.position < self._n_prompt for t in run.tokens),
            n_speculative=sum(t.position >= self._n_text for t in run.tokens),
        )
        with self._lock:
            self._runs[run.run_id] = record

    def on_cancel(self, run_first: int, run_last: int) -> None:
        """See interfaces.Observer."""
        cancel = CancelRecord(run_first=run_first, run_last=run_last, time_s=self._clock())
        with self._lock:
            self._cancels.append(cancel)

    def on_result(self, result: Result, decided: Sequence[int], n_accepted: int) -> None:
        """See interfaces.Observer."""
        now_s = self._clock()
        with self._lock:
            self._n_text += len(decided)
            self._runs[result.run_id] = replace(
                self._runs[result.run_id],
                result=result,
                result_s=now_s,
                decided=tuple(decided),
                n_accepted=n_accepted,
            )

    def on_drafted(self, begin_s: float, end_s: float) -> None:
        """The drafter was at work on one token. The one call for any thread."""
        with self._lock:
            self._drafts.append(DraftRecord(begin_s=begin_s, end_s=end_s))

    def recording(self, n_last: int | None = None) -> Recording:
        """What has happened so far; of runs, cancels and drafts the last ones only, if asked."""
        with self._lock:
            return Recording(
                n_prompt=self._n_prompt,
                n_stages=self._n_stages,
                runs=tuple(_last(self._runs.values(), n_last)),
                cancels=tuple(_last(self._cancels, n_last)),
                drafts=tuple(_last(self._drafts, n_last)),
            )


def _last(items: Reversible[Item], n_last: int | None) -> list[Item]:
    return list(islice(reversed(items), n_last))[::-1]


class TimedDrafter(Drafter):
    """The same drafter, timed: `on_drafted` hears of the time that each answer took."""

    def __init__(
        self,
        drafter: Drafter,
        on_drafted: Callable[[float, float], None],
        clock: Clock = time.monotonic,
    ) -> None:
        self._drafter = drafter
        self._on_drafted = on_drafted
        self._clock = clock

    def expand(
        self, batch: DraftBatch, is_wanted: Callable[[], bool]
    ) -> list[Sequence[Candidate]] | None:
        """See interfaces.Drafter."""
        begin_s = self._clock()
        answers = self._drafter.expand(batch, is_wanted)
        if answers is not None:
            self._on_drafted(begin_s, self._clock())
        return answers
