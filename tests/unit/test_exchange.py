"""A turn of the head's loop: what goes where, in which order, for one request and for several."""

import re
from dataclasses import replace
from itertools import count, pairwise

import pytest

from pipeinfer_cli.runtime import decode_loop
from pipeinfer_cli.runtime.decode_loop import DecodeLoop
from pipeinfer_cli.scheduler.auto import AutoSpeculation
from pipeinfer_cli.scheduler.batcher import Batcher
from pipeinfer_cli.scheduler.costs.measured import PriorCosts
from pipeinfer_cli.scheduler.exchange import Exchange, OneRequest
from pipeinfer_cli.scheduler.interfaces import DraftedBatch
from pipeinfer_cli.scheduler.kv_sequences import SequencePool
from pipeinfer_cli.scheduler.policy import DEFAULT_DRAFT, DraftConfig, Policy
from pipeinfer_cli.scheduler.scheduler import Knowledge, Scheduler
from scripted import ScriptedPipeline, next_token, plain, text_of

PROMPT = [3, 1, 4]
TURN = re.compile("( take)?( see-cancel cancel)*( see-submit submit)*( request)? wait( result)?")
DRAFTING = Policy(draft=DraftConfig(n_max=3, p_min=0.0), depth=4)
ADAPTIVE = Policy(draft=DEFAULT_DRAFT, is_adaptive=True, n_stages=2, depth=4)


class Notes:
    """A pipeline, an observer and a drafter that note what they are told."""

    def __init__(self, *, is_wrong=False):
        self.events, self.is_wrong = [], is_wrong
        self.pipeline, self.drafts = ScriptedPipeline(), []
        self.n_waits = 0

    def submit(self, run):
        self.events.append("submit")
        self.pipeline.submit(run)

    def cancel(self, run_first, run_last):
        self.events.append("cancel")
        self.pipeline.cancel(run_first, run_last)

    def wait(self, timeout_s):
        self.events.append("wait")
        self.n_waits += 1
        is_nudged = self.drafts and self.n_waits % 3 > 0  # a result comes in the middle of drafts
        return self.pipeline.answer() if self.pipeline.queue and not is_nudged else None

    def on_submit(self, run):
        self.events.append("see-submit")

    def on_cancel(self, run_first, run_last):
        self.events.append("see-cancel")

    def on_result(self, result, decided, n_accepted):
        self.events.append(("result", *decided))

    def request(self, batch):
        self.events.append("request")
        candidates = tuple(
            [(50 if self.is_wrong else next_token(text_of(batch, branch)), 0.9)]
            for branch in batch.branches
        )
        self.drafts.append(DraftedBatch(batch.epoch, candidates))

    def set_epoch(self, epoch):
        self.drafts = [draft for draft in self.drafts if draft.epoch >= epoch]

    def take(self):
        self.events.append("take")
        drafts, self.drafts = self.drafts, []
        return drafts


def scheduler_of(policy, pool=None, n_max=30, knowledge=None):
    return Scheduler(
        PROMPT, n_max=n_max, policy=policy, run_ids=count(1), pool=pool, knowledge=knowledge
    )


def batcher_of(pool, knowledge, n_stages=2):
    return Batcher(
        pool, n_stages=n_stages, depth=4, n_batch=32, run_ids=count(1), pacer=knowledge.pacer
    )


def one(policy, notes, **more):
    exchange = Exchange(notes, OneRequest(scheduler_of(policy), notes), observer=notes, **more)
    return DecodeLoop(notes, exchange, timeout_s=10)


def several(policy, notes, n_requests=1, **more):
    pool, known = SequencePool(), Knowledge.of(None, n_stages=2)
    batcher = batcher_of(pool, known)
    exchange = Exchange(notes, batcher, open_drafts=lambda request: notes, observer=notes, **more)
    for key in range(n_requests):
        exchange.on_begin(batcher.admit(key, scheduler_of(policy, pool, knowledge=known)))
    return DecodeLoop(notes, exchange, timeout_s=1)


@pytest.mark.parametrize("make", [one, several])
@pytest.mark.parametrize("policy", [DRAFTING, ADAPTIVE])
def test_a_turn_takes_drafts_then_cancels_then_submits_then_asks_for_drafts(make, policy):
    notes = Notes(is_wrong=True)
    loop, text = make(policy, notes), []
    for _ in range(60):
        notes.events.clear()
        text += [token for _, tokens in loop.turn() for token in tokens]
        names = [event if isinstance(event, str) else "result" for event in notes.events]
        events = "".join(f" {name}" for name in names)
        assert TURN.fullmatch(events), events
    assert text == plain(PROMPT, len(text))
    assert len(text) >= 5
    assert notes.pipeline.cancels, "wrong drafts are given up"


@pytest.mark.parametrize("make", [one, several])
@pytest.mark.parametrize("policy", [Policy(), DRAFTING, ADAPTIVE])
def test_the_observer_sees_all_decided_tokens(make, policy):
    notes = Notes()
    loop = make(policy, notes)
    text = [token for _ in range(10) for _, tokens in loop.turn() for token in tokens]
    seen = [each for each in notes.events if isinstance(each, tuple)]
    assert [token for _, *tokens in seen for token in tokens] == text == plain(PROMPT, len(text))


def test_drafts_are_asked_for_once_speculation_pays():
    auto = AutoSpeculation()
    notes = Notes()
    loop = several(DRAFTING, notes, n_requests=1, auto=auto)
    text = []
    while not auto.is_speculating:
        assert "request" not in notes.events
        text += [token for _, tokens in loop.turn() for token in tokens]
    loop.turn()
    assert "request" in notes.events
    assert text == plain(PROMPT, len(text))


def test_a_request_without_a_drafter_gets_one_when_it_may_draft():
    notes, opened = Notes(), []
    pool = SequencePool()
    batcher = batcher_of(pool, Knowledge.of(None, n_stages=3), n_stages=3)

    def open_drafts(request):
        opened.append(request.key)
        return notes

    exchange = Exchange(notes, batcher, open_drafts=open_drafts)
    batcher.admit("plain", scheduler_of(Policy(), pool))
    batcher.admit("drafts", scheduler_of(DRAFTING, pool))
    batcher.admit("waits", scheduler_of(DRAFTING, pool))
    exchange.submit(0.0)
    assert opened == [], "there is a request for each stage"
    batcher.end(batcher.active[2])
    for _ in range(2):
        exchange.submit(0.0)
    assert opened == ["drafts"]


class Slow(Notes):
    """No result comes; time passes while the head waits, unless there are drafts."""

    def __init__(self):
        super().__init__()
        self.now_s, self.submitted = 100.0, []

    def monotonic(self):
        return self.now_s

    def submit(self, run):
        super().submit(run)
        self.submitted.append((self.now_s, len(run.tokens)))

    def wait(self, timeout_s):
        self.now_s += 0 if self.drafts else timeout_s


def test_the_head_wakes_when_the_slowest_stage_is_free_for_drafted_tokens(monkeypatch):
    prior = PriorCosts(by_size={1: (0.03, 0.09), 32: (0.96, 2.88)}, draft_s=0.001)
    notes = Slow()
    monkeypatch.setattr(decode_loop, "time", notes)
    loop = one(replace(ADAPTIVE, prior=prior, depth=4), notes)
    for _ in range(60):
        assert loop.turn() == []
    assert len(notes.submitted) == 4, "as many as the depth"
    for (before_s, n_tokens), (after_s, _) in pairwise(notes.submitted):
        assert after_s - before_s == pytest.approx(0.03 * n_tokens)


class Failing(Notes):
    def take(self):
        raise RuntimeError("the drafter failed")


def test_what_a_drafter_raises_comes_in_the_next_turn_and_not_when_the_text_is_over():
    scheduler = scheduler_of(DRAFTING)
    notes = Failing()
    loop = DecodeLoop(notes, Exchange(notes, OneRequest(scheduler, notes)), timeout_s=1)
    with pytest.raises(RuntimeError, match="the drafter failed"):
        loop.turn()
    scheduler.finish()
    loop.drain()
    assert scheduler.is_idle
