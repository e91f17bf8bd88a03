"""What the page at `/` shows of the pipeline: the runs that have ended, and when, as events."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from pipeinfer_cli.scheduler.runs import Result, Run, RunStatus

N_KEPT = 1000  # events, for pages that look seldom
N_SPEED = 2000  # tokens
SPEED_S = 3.0  # tokens/s are those of the last seconds
Kind = Literal["prompt", "decided", "drafted"]
Fate = Literal["prompt", "decided", "drafted", "wrong", "cancelled"]
Fields = dict[str, Any]


class LiveFeed:
    """An interfaces.Observer that keeps what pages have not shown yet, while there are any.

    Written on the head's thread, read on HTTP's. A stage's times are estimated from the moment at
    which the result came: clocks of other hosts are not ours.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_viewers = 0
        self._is_drafted: Callable[[int], bool] = lambda _: False
        self._in_flight: dict[int, tuple[Kind, int]] = {}  # by run: its kind and tokens
        self._events: deque[tuple[int, Fields]] = deque(maxlen=N_KEPT)
        self._n_events = 0
        self._decided_s: deque[float] = deque(maxlen=N_SPEED)

    def listen(self, is_drafted: Callable[[int], bool]) -> None:
        """Which runs are of drafted tokens."""
        self._is_drafted = is_drafted

    # the head's thread

    def on_submit(self, run: Run) -> None:
        """See interfaces.Observer."""
        kind: Kind = "decided"
        if any(not token.want for token in run.tokens):
            kind = "prompt"
        elif self._is_drafted(run.run_id):
            kind = "drafted"
        with self._lock:
            self._in_flight[run.run_id] = kind, len(run.tokens)

    def on_cancel(self, run_first: int, run_last: int) -> None:
        """See interfaces.Observer."""
        self._add({"cancel": run_last - run_first + 1, "at": time.monotonic()})

    def on_result(
        self,
        result: Result,
        decided: Sequence[int],
        n_accepted: int,  # noqa: ARG002 (a run is right or wrong here)
    ) -> None:
        """See interfaces.Observer."""
        now_s = time.monotonic()
        kind, n_tokens = self._in_flight.get(result.run_id, ("decided", 0))
        with self._lock:
            self._in_flight.pop(result.run_id, None)
            self._decided_s.extend([now_s] * len(decided))
        if not self._n_viewers:
            return
        is_lost = result.status is not RunStatus.COMPLETED
        spans = []
        end_s = now_s
        for part in reversed(result.times):
            begin_s = end_s - part.compute_us / 1e6
            spans.append([part.stage, begin_s, end_s])
            end_s = begin_s - part.wait_us / 1e6
        fate: Fate = "cancelled" if is_lost else kind
        if kind == "drafted" and not is_lost and not decided:
            fate = "wrong"
        self._add({"run": result.run_id, "fate": fate, "tokens": n_tokens, "spans": spans})

    def _add(self, fields: Fields) -> None:
        if self._n_viewers:
            with self._lock:
                self._n_events += 1
                self._events.append((self._n_events, fields))

    # HTTP's thread

    @contextmanager
    def viewing(self) -> Iterator[None]:
        """A page looks while the block runs."""
        self._n_viewers += 1
        try:
            yield
        finally:
            self._n_viewers -= 1

    def since(self, number: int) -> tuple[int, Fields]:
        """What has happened since an event of this number, and the number of the last one."""
        now_s = time.monotonic()
        with self._lock:
            events = [fields for index, fields in self._events if index > number]
            recent = [each for each in self._decided_s if each > now_s - SPEED_S]
            kinds = [kind for kind, _ in self._in_flight.values()]
            last = self._n_events
        return last, {
            "now": now_s,
            "events": events,
            "in_flight": {kind: kinds.count(kind) for kind in ("prompt", "decided", "drafted")},
            "tokens_per_s": len(recent) / SPEED_S,
        }
