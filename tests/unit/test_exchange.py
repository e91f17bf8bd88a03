"""A turn of the head's loop: what goes where, in which order, for one request and for several."""

import re
from itertools import count

import pytest

from pipeinfer_cli.runtime.decode_loop import DecodeLoop
from pipeinfer_cli.scheduler.auto import AutoSpeculation
from pipeinfer_cli.scheduler.batcher import Batcher
from pipeinfer_cli.scheduler.exchange import Exchange, OneRequest
from pipeinfer_cli.scheduler.kv_sequences import SequencePool
from pipeinfer_cli.scheduler.policy import DraftConfig, Policy
from pipeinfer_cli.scheduler.scheduler import Scheduler
from pipeinfer_cli.scheduler.speculation import Draft
from scripted import ScriptedPipeline, plain

PROMPT = [3, 1, 4]
TURN = re.compile("( take)?( see-cancel cancel)*( see-submit submit)*( request)? wait( result)?")
DRAFTING = Policy(draft=DraftConfig(n_max=3, p_min=0.0), depth=4)


class Notes:
    """A pipeline, an observer and a drafter that note what they are told."""

    def __init__(self, *, is_wrong=False):
        self.events, self.is_wrong = [], is_wrong
        self.pipeline, self.drafts = ScriptedPipeline(), []

    def submit(self, run):
        self.events.append("submit")
        self.pipeline.submit(run)

    def cancel(self, run_first, run_last):
        self.events.append("cancel")
        self.pipeline.cancel(run_first, run_last)

    def wait(self, timeout_s):
        self.events.append("wait")
        is_nudged = bool(self.drafts)
        return self.pipeline.answer() if self.pipeline.queue and not is_nudged else None

    def on_submit(self, run):
        self.events.append("see-submit")

    def on_cancel(self, run_first, run_last):
        self.events.append("see-cancel")

    def on_result(self, result, decided):
        self.events.append(("result", *decided))

    def request(self, request):
        self.events.append("request")
        position = len(request.context)
        for token in plain(request.context, request.n_max):
            wrong = 50 if self.is_wrong else token
            self.drafts.append(Draft(request.epoch, position, wrong))
            position += 1
        self.drafts.append(Draft(request.epoch, position, None))

    def set_epoch(self, epoch):
        self.drafts = [draft for draft in self.drafts if draft.epoch >= epoch]

    def take(self):
        self.events.append("take")
        drafts, self.drafts = self.drafts, []
        return drafts


def scheduler_of(policy, pool=None, n_max=30):
    return Scheduler(PROMPT, n_max=n_max, policy=policy, run_ids=count(1), pool=pool)


def one(policy, notes, **more):
    exchange = Exchange(notes, OneRequest(scheduler_of(policy), notes), observer=notes, **more)
    return DecodeLoop(notes, exchange, timeout_s=1)


def several(policy, notes, n_requests=1, **more):
    pool = SequencePool()
    batcher = Batcher(pool, n_stages=2, depth=4, n_batch=32, run_ids=count(1))
    exchange = Exchange(notes, batcher, open_drafts=lambda request: notes, observer=notes, **more)
    for key in range(n_requests):
        exchange.on_begin(batcher.admit(key, scheduler_of(policy, pool)))
    return DecodeLoop(notes, exchange, timeout_s=1)


@pytest.mark.parametrize("make", [one, several])
def test_a_turn_takes_drafts_then_cancels_then_submits_then_asks_for_drafts(make):
    notes = Notes(is_wrong=True)
    loop, text = make(DRAFTING, notes), []
    for _ in range(40):
        notes.events.clear()
        text += [token for _, tokens in loop.turn() for token in tokens]
        names = [event if isinstance(event, str) else "result" for event in notes.events]
        events = "".join(f" {name}" for name in names)
        assert TURN.fullmatch(events), events
    assert text == plain(PROMPT, len(text))
    assert len(text) >= 5
    assert notes.pipeline.cancels, "wrong drafts are given up"


@pytest.mark.parametrize("make", [one, several])
@pytest.mark.parametrize("policy", [Policy(), DRAFTING])
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
    batcher = Batcher(pool, n_stages=3, depth=4, n_batch=32, run_ids=count(1))

    def open_drafts(request):
        opened.append(request.key)
        return notes

    exchange = Exchange(notes, batcher, open_drafts=open_drafts)
    batcher.admit("plain", scheduler_of(Policy(), pool))
    batcher.admit("drafts", scheduler_of(DRAFTING, pool))
    batcher.admit("waits", scheduler_of(DRAFTING, pool))
    exchange.submit()
    assert opened == [], "there is a request for each stage"
    batcher.end(batcher.active[2])
    for _ in range(2):
        exchange.submit()
    assert opened == ["drafts"]


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
