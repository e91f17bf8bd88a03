"""Which runs to submit next: pure decisions, without MPI, ctypes, clock or randomness.

The scheduler owns the text, the drafted chain after it, and the runs in flight. It is handed
drafted tokens (`on_draft`) and results in the order of submission (`on_result`), and says what to
submit (`take_runs`), what to give up (`take_cancels`) and what to draft (`take_draft_request`).

Why one sequence id is enough for a chain: runs pass every stage in order, so that the cells of a
wrong continuation are all there when the run of the corrected token comes; it carries the KV
operation that removes them. Cell index and position stay the same, which keeps results bitwise
equal to plain decoding.

Continuous asynchronous speculation, early cancellation and reactive cutoffs follow "PipeInfer:
Accelerating LLM Inference using Asynchronous Pipelined Speculation" (SC24, arXiv 2407.11798).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pipeinfer_cli.policy import DraftConfig, Policy
from pipeinfer_cli.runs import Fate, KvKind, KvOp, Result, Run, RunToken


@dataclass(frozen=True, slots=True)
class DraftRequest:
    """What to draft: tokens that go on from `context`, at most `n_max`, until told otherwise."""

    epoch: int  # drafts of earlier epochs rest on a wrong token
    context: tuple[int, ...]
    n_max: int


@dataclass(frozen=True, slots=True)
class Draft:
    """One drafted token, or (`token` None) the end of what was requested."""

    epoch: int
    position: int
    token: int | None
    probability: float = 1.0  # how sure the drafter is of the token


@dataclass(slots=True)
class Counters:
    """What has happened so far."""

    n_drafted: int = 0  # speculative tokens that were submitted
    n_accepted: int = 0  # of these, the ones that the target decided, too
    n_decided: int = 0  # generated tokens
    n_launched: int = 0  # runs
    n_completed: int = 0  # runs that every stage decoded
    n_invalidated: int = 0  # runs given up because they rest on a wrong token
    n_verified: int = 0  # live runs whose result decided tokens
    ahead_drafted: dict[int, int] = field(default_factory=dict)  # by tokens ahead of the text, 1...
    ahead_accepted: dict[int, int] = field(default_factory=dict)
    n_cancelled: int = 0  # of the invalidated ones: given up by a stage before its end
    n_aborted: int = 0  # of these, in mid-compute
    busy_us: dict[int, int] = field(default_factory=dict)  # compute, by stage
    wasted_us: dict[int, int] = field(default_factory=dict)  # of it, for tokens that were wrong
    n_messages: int = 0  # between processes, with runs and results
    n_bytes: int = 0  # in them
    live_sum: int = 0  # live runs in flight, summed over the submissions


@dataclass(slots=True)
class _InFlight:
    run_id: int
    first: int  # positions [first, last)
    last: int
    is_live: bool = True


class Scheduler:
    """One request: a prompt, and a text of at most `n_max` tokens after it."""

    def __init__(
        self, prompt: Sequence[int], *, n_max: int, policy: Policy, run_ids: Iterator[int]
    ) -> None:
        assert prompt and n_max > 0
        self.counters = Counters()
        self.policy = policy
        self._run_ids = run_ids  # of the pipeline: they grow over all its requests
        self._text = list(prompt)  # decided tokens, by position
        self._n_prompt = len(prompt)
        # A token is worth feeding if the one after it is still wanted.
        self._n_feed_max = len(prompt) + n_max - 1
        self._chain: deque[int] = deque()  # drafted tokens after the text
        self._n_fed = 0  # positions that were submitted, and are still believed
        self._in_flight: deque[_InFlight] = deque()
        self._cancels: list[tuple[int, int]] = []  # [first, last] run ids
        # Cells to remove with the next run: first an earlier request's, later wrong continuations'.
        self._remove_from: int | None = 0
        # drafting
        self._epoch = 0
        self._is_drafting = False
        self._is_draft_over = False  # the drafter has nothing to add, until the text is longer
        self._is_speculating = True
        self._held: Draft | None = None  # the token whose low probability ended the draft
        self._cutoff = policy.draft.p_min if policy.draft else 1.0

    @property
    def n_live(self) -> int:
        """Runs in flight that are still believed."""
        return sum(each.is_live for each in self._in_flight)

    @property
    def epoch(self) -> int:
        """Drafts of earlier epochs are not wanted any more."""
        return self._epoch

    @property
    def is_idle(self) -> bool:
        """True if no run is in flight."""
        return not self._in_flight

    def set_speculating(self, is_on: bool) -> None:
        """Switches an asynchronous policy to plain decoding, or back. What is in flight stays."""
        assert not self.policy.is_synchronous
        if self._is_speculating and not is_on:
            self._epoch += 1
            self._is_drafting = False
            self._held = None
            while len(self._text) + len(self._chain) > max(self._n_fed, len(self._text)):
                self._chain.pop()
        self._is_speculating = is_on

    def finish(self) -> None:
        """Gives up what is in flight: the text is long enough. Results still have to come."""
        self._n_feed_max = 0
        self._give_up(self._in_flight)

    # runs

    def take_runs(self) -> list[Run]:
        """The runs to submit now, in this order."""
        runs = []
        while (last := self._next_run_end()) > self._n_fed:
            runs.append(self._make_run(self._n_fed, last))
        return runs

    def take_cancels(self) -> list[tuple[int, int]]:
        """Ranges `[first, last]` of run ids to give up now."""
        cancels, self._cancels = self._cancels, []
        return cancels

    def _next_run_end(self) -> int:
        """The position after the next run's last one; `n_fed` if there is nothing to submit."""
        n_decided = len(self._text)
        if self._n_fed < self._n_prompt:  # prefill: all stages at once
            end = min(self._n_fed + self.policy.n_batch, self._n_prompt)
            return end if self.n_live < 2 * self.policy.depth else self._n_fed
        end = min(n_decided + len(self._chain), self._n_feed_max)
        if self.policy.is_synchronous and self.policy.draft:
            is_waiting = not self._is_draft_over and self._draft_room(self.policy.draft) > 0
            return self._n_fed if self._in_flight or is_waiting else end
        if self._n_fed < n_decided:  # a decided token leaves at once
            return min(n_decided, end)
        if self.n_live >= self.policy.depth:
            return self._n_fed
        if end <= self._n_fed and self._held is not None:
            end = min(self._release_held(), self._n_feed_max)
        assert self.policy.draft or end <= self._n_fed
        n_run = self.policy.draft.n_max if self.policy.draft else 0
        return min(end, self._n_fed + n_run)

    def _make_run(self, first: int, last: int) -> Run:
        n_decided = len(self._text)
        tokens = tuple(
            RunToken(
                id=self._text[p] if p < n_decided else self._chain[p - n_decided],
                position=p,
                want=p >= self._n_prompt - 1,
            )
            for p in range(first, last)
        )
        kv_ops: tuple[KvOp, ...] = ()
        if self._remove_from is not None:
            kv_ops = (KvOp(kind=KvKind.REMOVE, seq_src=0, pos_first=self._remove_from),)
            self._remove_from = None
        run = Run(run_id=next(self._run_ids), tokens=tokens, kv_ops=kv_ops)
        self._in_flight.append(_InFlight(run.run_id, first, last))
        self._n_fed = last
        self.counters.n_launched += 1
        self.counters.live_sum += self.n_live
        for ahead in range(max(first, n_decided) - n_decided + 1, last - n_decided + 1):
            self.counters.n_drafted += 1
            _count(self.counters.ahead_drafted, ahead)
        return run

    # results

    def on_result(self, result: Result) -> list[int]:
        """The token ids that this result has decided."""
        run = self._in_flight.popleft()
        assert result.run_id == run.run_id, "results come in the order of submission"
        decided = self._decide_rows(result) if run.is_live else []
        self._account(run, result, n_right=len(decided))
        return decided

    def _decide_rows(self, result: Result) -> list[int]:
        assert result.fate is Fate.COMPLETED, "a live run is never cancelled"
        decided: list[int] = []
        n_decided_before = len(self._text)
        for row in result.rows:
            decided.append(row)
            if not self._decide(row, ahead=len(self._text) - n_decided_before + 1):
                break
        self.counters.n_verified += bool(decided)
        return decided

    def _account(self, run: _InFlight, result: Result, n_right: int) -> None:
        counters = self.counters
        counters.n_completed += result.fate is Fate.COMPLETED
        counters.n_cancelled += result.fate is Fate.CANCELLED
        counters.n_aborted += any(part.fate is Fate.ABORTED for part in result.times)
        sizes = [*(part.in_bytes for part in result.times), result.in_bytes]
        counters.n_messages += sum(size > 0 for size in sizes)
        counters.n_bytes += sum(sizes)
        n_tokens = run.last - run.first
        n_wrong = 0 if run.last <= self._n_prompt else n_tokens - n_right
        for part in result.times:
            _count(counters.busy_us, part.stage, part.compute_us)
            _count(counters.wasted_us, part.stage, part.compute_us * n_wrong // n_tokens)

    def _decide(self, token: int, ahead: int) -> bool:
        """The target's token goes to the text. True if the chain had it, too."""
        position = len(self._text)
        is_accepted = bool(self._chain) and self._chain[0] == token
        if self._held is not None and self._held.position == position:
            self._held = None  # decided meanwhile
        self._text.append(token)
        self._is_draft_over = False
        self.counters.n_decided += 1
        if is_accepted:
            self._chain.popleft()
            if position < self._n_fed:
                self.counters.n_accepted += 1
                _count(self.counters.ahead_accepted, ahead)
                self._recover()
        elif self._chain:
            self._miss(position)
        # else a bonus token: nothing was known of it
        return is_accepted

    def _miss(self, position: int) -> None:
        """What was drafted from `position` on is wrong."""
        self._chain.clear()
        self._held = None
        self._epoch += 1
        self._is_drafting = False
        if self.policy.draft:
            self._cutoff = min(1.0, self._cutoff + self.policy.draft.p_recovery)
        if self._n_fed > position:
            self._n_fed = position
            self._remove_from = position
            self._give_up([each for each in self._in_flight if each.last > position])

    def _give_up(self, runs: Sequence[_InFlight] | deque[_InFlight]) -> None:
        live = [each for each in runs if each.is_live]
        for each in live:
            each.is_live = False
        self.counters.n_invalidated += len(live)
        if live:
            self._cancels.append((live[0].run_id, live[-1].run_id))

    # drafting

    def take_draft_request(self) -> DraftRequest | None:
        """What to draft now; None if the drafter is at work or nothing more is wanted."""
        draft = self.policy.draft
        is_busy = self._is_drafting or self._held is not None or self._n_fed < self._n_prompt
        if draft is None or is_busy or not self._is_speculating:
            return None
        if self._is_draft_over or (self.policy.is_synchronous and self._in_flight):
            return None
        if (n_max := self._draft_room(draft)) <= 0:
            return None
        self._is_drafting = True
        return DraftRequest(self._epoch, (*self._text, *self._chain), n_max)

    def _draft_room(self, draft: DraftConfig) -> int:
        """How many more tokens may be drafted now."""
        n_ahead = draft.n_max if self.policy.is_synchronous else self.policy.depth * draft.n_max
        n_worth = self._n_feed_max - len(self._text)
        return min(n_ahead, n_worth) - len(self._chain)

    def on_draft(self, draft: Draft) -> None:
        """A drafted token, or the end of a draft. Those of earlier epochs are ignored."""
        if draft.epoch != self._epoch or not self._is_drafting:
            return
        if draft.token is None:
            self._end_draft()
        elif draft.position < len(self._text):
            if self._text[draft.position] != draft.token:  # overtaken by a bonus token, and wrong
                self._epoch += 1
                self._is_drafting = False
        elif draft.probability < self._cutoff:
            self._held = None if self.policy.is_synchronous else draft
            self._epoch += 1  # the rest of this draft is not wanted
            self._end_draft()
        else:
            self._chain.append(draft.token)

    def _end_draft(self) -> None:
        self._is_drafting = False
        self._is_draft_over = True
        is_too_short = self.policy.draft and len(self._chain) < self.policy.draft.n_min
        if self.policy.is_synchronous and is_too_short:
            self._chain.clear()

    def _recover(self) -> None:
        if self.policy.draft:
            self._cutoff = self.policy.draft.p_min

    def _release_held(self) -> int:
        """The pipeline would idle: the cutoff falls, maybe below the held token's probability."""
        assert self._held is not None and self._held.token is not None and self.policy.draft
        self._cutoff = max(0.0, self._cutoff - self.policy.draft.p_decay)
        if self._held.probability >= self._cutoff:
            self._chain.append(self._held.token)
            self._held = None
            self._is_draft_over = False
        return len(self._text) + len(self._chain)


def _count(counts: dict[int, int], key: int, amount: int = 1) -> None:
    counts[key] = counts.get(key, 0) + amount
