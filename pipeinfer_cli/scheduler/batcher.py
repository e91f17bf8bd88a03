"""Several requests in one pipeline: pure decisions, as the scheduler's.

Each request has a scheduler of its own; the batcher lets their runs take turns, so that the stages
are filled by requests first, and by speculation with what is left:

- Decided tokens of different requests share a run: a stage reads its weights once for all of them.
  So that all stages have work, there are as many such runs as stages, of about equal size; a token
  waits for others only while that many are under way.
- Then come prompts, and then drafted tokens, while fewer runs are in flight than the depth allows.
- Nothing is drafted while there is a request for each stage, or more.
- A request that ends gives up what is in flight for it alone, unless another one builds upon it.

No logits depend on what else is in a run, so that each text is the same as alone.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Generic, TypeVar

from pipeinfer_cli.scheduler.costs.pacer import StagePacer
from pipeinfer_cli.scheduler.in_flight import add_cancel
from pipeinfer_cli.scheduler.interfaces import Drafts
from pipeinfer_cli.scheduler.kv_sequences import PrefixCache, SequencePool
from pipeinfer_cli.scheduler.runs import Result, Run
from pipeinfer_cli.scheduler.scheduler import Scheduler

Key = TypeVar("Key", bound=Hashable)


@dataclass(slots=True, eq=False)
class ScheduledRequest(Generic[Key]):
    """A request in the pipeline."""

    key: Key
    scheduler: Scheduler
    drafts: Drafts | None = None  # its drafter at work; None: it has not drafted yet
    is_over: bool = False  # its text is long enough
    is_lent: bool = False  # cells of its prompt, which may not be computed yet, are another's, too


@dataclass(frozen=True, slots=True)
class _Part(Generic[Key]):
    """What a run has of one request."""

    request: ScheduledRequest[Key]
    run: Run  # as its scheduler has made it


class Batcher(Generic[Key]):
    """Requests that share a pipeline; they come and go while it runs."""

    expected_gain = None  # of speculation: not known of several requests together

    def __init__(
        self,
        pool: SequencePool,
        *,
        n_stages: int,
        depth: int,
        n_batch: int,
        run_ids: Iterator[int],
        pacer: StagePacer,
        n_cached: int = 0,
    ) -> None:
        """`n_cached`: tokens of texts that are over whose cells stay; see PrefixCache."""
        self.pacer = pacer  # of the pipeline
        self._pool = pool
        self._n_stages = n_stages
        self._depth = depth
        self._n_batch = n_batch
        self._run_ids = run_ids  # of the pipeline
        self._requests: list[ScheduledRequest[Key]] = []  # in the order of admission
        self._in_flight: dict[int, list[_Part[Key]]] = {}  # by run id, in the order of submission
        self._live: set[int] = set()  # of these, not given up
        self._decided: set[int] = set()  # of these, with decided tokens
        # Run ids by those of schedulers: of runs that are one request's, and of these the drafted.
        self._own: dict[tuple[ScheduledRequest[Key], int], int] = {}
        self._drafted: set[int] = set()
        self.cache = PrefixCache(pool, n_cached)

    @property
    def active(self) -> list[ScheduledRequest[Key]]:
        """The requests whose text is not over, in the order of admission."""
        return [request for request in self._requests if not request.is_over]

    @property
    def is_idle(self) -> bool:
        """True if no run is in flight."""
        return not self._in_flight

    @property
    def n_sequences(self) -> int:
        """Sequence ids of the pipeline that are in use."""
        return self._pool.n_used

    def is_drafted(self, run_id: int) -> bool:
        """Whether a run in flight has only drafted tokens."""
        return run_id in self._drafted

    @property
    def drafting(self) -> list[ScheduledRequest[Key]]:
        """The requests that may draft now."""
        requests = self.active
        is_full = len(requests) >= max(2, self._n_stages)
        return [each for each in requests if each.scheduler.policy.is_synchronous or not is_full]

    def admit(self, key: Key, scheduler: Scheduler) -> ScheduledRequest[Key]:
        """A request joins. Its scheduler has run ids of its own, and the pipeline's pool."""
        request = ScheduledRequest(key, scheduler)
        self._requests.append(request)
        return request

    def end(self, request: ScheduledRequest[Key]) -> None:
        """The request's text is long enough: what is in flight for it is of no use."""
        request.is_over = True
        request.scheduler.finish()
        cached = request.scheduler.close()
        if cached is not None:
            self.cache.add(cached)
        self._forget(request)

    def close(self) -> None:
        """All requests have ended: no text is kept for another."""
        assert not self.active
        self.cache.clear()

    # runs

    @property
    def wake_s(self) -> float:
        """When a run may leave though nothing else has happened by then; infinite: never."""
        if len(self._live) >= self._depth:
            return math.inf
        return min((each.scheduler.wake_s for each in self.active), default=math.inf)

    def next_run(self, now_s: float) -> Run | None:
        """The run to submit now; None if there is nothing to submit yet."""
        requests = self.active
        if len(self._decided) < self._n_stages and (parts := self._decided_parts(requests)):
            run_id = self._submit(parts)
            self._decided.add(run_id)
            return self._merged(run_id, parts)
        if len(self._live) >= self._depth:
            return None
        for request in requests:
            if request.scheduler.is_prefilling:
                self._share_prefix(request)
                prefill = request.scheduler.next_prefill(is_alone=len(requests) == 1)
                part = _Part(request, prefill)
                return self._merged(self._submit([part]), [part])
        for request in requests:
            if (run := request.scheduler.next_drafted(now_s)) is not None:
                run_id = self._submit([_Part(request, run)])
                self._drafted.add(run_id)
                return replace(run, run_id=run_id)
        return None

    def _decided_parts(self, requests: Sequence[ScheduledRequest[Key]]) -> list[_Part[Key]]:
        """Decided tokens of several requests, for one run."""
        parts: list[_Part[Key]] = []
        n_left = self._n_batch
        for request in requests:
            if len(parts) == math.ceil(len(requests) / self._n_stages):
                break
            if request.scheduler.n_decided_max > n_left:
                break
            if (run := request.scheduler.next_decided(may_wait=False)) is not None:
                parts.append(_Part(request, run))
                n_left -= len(run.tokens)
        return parts

    def _submit(self, parts: list[_Part[Key]]) -> int:
        """The id of a run of these parts."""
        run_id = next(self._run_ids)
        self._in_flight[run_id] = parts
        self._live.add(run_id)
        if len(parts) == 1:
            self._own[parts[0].request, parts[0].run.run_id] = run_id
        return run_id

    @staticmethod
    def _merged(run_id: int, parts: Sequence[_Part[Key]]) -> Run:
        return Run(
            run_id=run_id,
            tokens=tuple(token for part in parts for token in part.run.tokens),
            kv_ops=tuple(op for part in parts for op in part.run.kv_ops),
        )

    def _share_prefix(self, request: ScheduledRequest[Key]) -> None:
        """Before a prompt's first run: its beginning may be there, or on its way, already."""
        scheduler = request.scheduler
        if scheduler.has_begun or scheduler.n_reused:
            return
        lenders = [each for each in self.active if each is not request]
        begun = [each.scheduler.prefilled for each in lenders]
        texts = [*begun, *self.cache.texts]
        if not texts:
            return
        text = max(texts, key=scheduler.n_common)
        scheduler.reuse(text)
        if scheduler.n_reused:
            self.cache.touch(text)
            for lender, each in zip(lenders, begun, strict=True):
                lender.is_lent |= each is text

    # results

    def on_result(
        self, result: Result, now_s: float
    ) -> list[tuple[ScheduledRequest[Key], list[int]]]:
        """The token ids that this result, come now, has decided, by request."""
        run_id = next(iter(self._in_flight))
        assert result.run_id == run_id, "results come in the order of submission"
        parts = self._in_flight.pop(run_id)
        self._live.discard(run_id)
        self._decided.discard(run_id)
        self._drafted.discard(run_id)
        decided = []
        for part, share in zip(parts, _shares(result, parts), strict=True):
            request = part.request
            self._own.pop((request, part.run.run_id), None)
            is_shared = len(parts) > 1
            if tokens := request.scheduler.on_result(share, now_s, is_shared=is_shared):
                decided.append((request, tokens))
            self._forget(request)
        return decided

    def _forget(self, request: ScheduledRequest[Key]) -> None:
        """Drops the request if it is over and has nothing in flight."""
        if request.is_over and request.scheduler.is_idle:
            self._requests.remove(request)

    def take_cancels(self) -> list[tuple[int, int]]:
        """Ranges `[first, last]` of run ids to give up now, in this order.

        None with tokens of several requests, or with what another request builds upon.
        """
        cancels: list[tuple[int, int]] = []
        for request in self._requests:
            is_free = request.is_over and not request.is_lent
            for first, last in request.scheduler.take_cancels():
                for own_id in range(last, first - 1, -1):
                    run_id = self._own.get((request, own_id))
                    if run_id is None or not (is_free or run_id in self._drafted):
                        continue
                    self._live.discard(run_id)
                    add_cancel(cancels, run_id)
        return cancels


def _shares(result: Result, parts: Sequence[_Part[Key]]) -> Iterator[Result]:
    """A run's result as those of its parts: rows, and the stages' time by the number of tokens.

    The messages are the first part's.
    """
    n_tokens = sum(len(part.run.tokens) for part in parts)
    first_row = 0
    for index, part in enumerate(parts):
        n_rows = part.run.n_rows
        own_share = Fraction(len(part.run.tokens), n_tokens)
        times = tuple(
            replace(
                each,
                compute_us=int(each.compute_us * own_share),
                in_bytes=each.in_bytes if index == 0 else 0,
            )
            for each in result.times
        )
        yield replace(
            result,
            run_id=part.run.run_id,
            rows=result.rows[first_row : first_row + n_rows],
            times=times if len(parts) > 1 else result.times,
            in_bytes=result.in_bytes if index == 0 else 0,
        )
        first_row += n_rows
