"""N-gram lookup, the order of drafters, and the thread that drafts."""

import signal
import threading
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeinfer_cli.drafters import model as draft_model
from pipeinfer_cli.drafters.fallback import FallbackDrafter
from pipeinfer_cli.drafters.model import N_BATCH, ModelDrafter
from pipeinfer_cli.drafters.ngram import NgramDrafter
from pipeinfer_cli.drafters.thread import DraftThread
from pipeinfer_cli.errors import Interrupted
from pipeinfer_cli.scheduler.kv_sequences import common_prefix
from pipeinfer_cli.scheduler.speculation import DraftRequest

WAIT_S = 10


def proposed(drafter, context, n_tokens=5):
    return [token for ((token, _),) in islice(drafter.propose(context), n_tokens)]


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ([1, 2, 3, 4, 1, 2], [3, 4, 1, 2, 3]),
        ([1, 2, 3, 9, 5, 1, 2, 3, 7, 6, 1, 2, 3], [7, 6, 1, 2, 3]),  # the latest place
        ([8, 1, 2, 3, 9, 5, 2, 3, 7, 4, 1, 2, 3], [9, 5, 2, 3, 7]),  # a longer match comes first
        ([1, 1, 1], [1, 1, 1, 1, 1]),
        ([1, 2, 3, 4, 5], []),
        ([1], []),
    ],
)
def test_ngram(context, expected):
    assert proposed(NgramDrafter(), context) == expected


def test_longer_matches_are_trusted_more_and_later_tokens_less():
    short = [p for ((_, p),) in islice(NgramDrafter().propose([1, 2, 3, 1, 2]), 2)]
    long = [p for ((_, p),) in islice(NgramDrafter().propose([1, 2, 3, 4, 5, 1, 2, 3, 4]), 2)]
    assert short[0] < long[0]
    assert long[1] < long[0]


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=20), min_size=1, max_size=6))
def test_ngram_of_changing_contexts_is_that_of_a_new_drafter(contexts):
    """What was indexed of discarded texts never shows."""
    kept = NgramDrafter()
    for context in contexts:
        for size in (2, 3, 4):  # whatever it proposes stood after the same n-gram
            tokens = proposed(kept, context, 1)
            if tokens:
                text = [*context, *tokens]
                assert any(
                    context[i : i + size] == context[-size:] and text[i + size] == tokens[0]
                    for size in (2, 3, 4)
                    for i in range(len(context) - size)
                )


def test_several_candidates_are_what_followed_different_matches():
    (candidates,) = islice(NgramDrafter().propose([1, 2, 3, 9, 1, 2, 4, 8, 1, 2], 3), 1)
    assert [token for token, _ in candidates] == [4, 3]
    assert candidates[0][1] > candidates[1][1]


class Fixed:
    def __init__(self, *tokens):
        self.tokens = tokens

    def propose(self, context, n_candidates=1):
        return iter([[(token, 1.0)] for token in self.tokens])


def test_the_first_drafter_that_knows_something_proposes():
    assert proposed(FallbackDrafter(Fixed(), Fixed(1, 2), Fixed(3)), [0]) == [1, 2]
    assert proposed(FallbackDrafter(Fixed(), Fixed()), [0]) == []


def test_a_drafter_that_reads_is_one_that_knows_something():
    class Reading:
        def propose(self, context, n_candidates=1):
            return iter([[], [], [(4, 1.0)]])

    proposals = list(FallbackDrafter(Fixed(), Reading(), Fixed(3)).propose([0]))
    assert proposals == [[], [], [(4, 1.0)]]


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_common_prefix(a, b):
    length = common_prefix(a, b)
    assert a[:length] == b[:length]
    assert length == min(len(a), len(b)) or a[length] != b[length]


def drafts_of(thread, arrived, n_drafts):
    drafts = []
    while len(drafts) < n_drafts:
        assert arrived.acquire(timeout=WAIT_S)
        drafts += thread.take()
    return drafts


def test_the_thread_drafts_and_says_when_a_draft_is_over():
    arrived = threading.Semaphore(0)
    thread = DraftThread(Fixed(7, 8, 9), arrived.release)
    thread.request(DraftRequest(epoch=3, context=(1, 2), n_max=2))
    first = drafts_of(thread, arrived, 3)
    assert [(d.epoch, d.position, d.token) for d in first] == [(3, 2, 7), (3, 3, 8), (3, 2, None)]
    thread.request(DraftRequest(epoch=3, context=(1, 2), n_max=9))
    assert [d.token for d in drafts_of(thread, arrived, 4)] == [7, 8, 9, None]
    thread.close()


def test_a_draft_of_an_earlier_epoch_ends():
    class Endless:
        def __init__(self):
            self.go_on = threading.Semaphore(0)

        def propose(self, context, n_candidates=1):
            while True:
                assert self.go_on.acquire(timeout=WAIT_S)
                yield [(5, 1.0)]

    arrived, drafter = threading.Semaphore(0), Endless()
    thread = DraftThread(drafter, arrived.release)
    thread.request(DraftRequest(epoch=1, context=(1,), n_max=1000))
    drafter.go_on.release()
    assert [d.epoch for d in drafts_of(thread, arrived, 1)] == [1]
    thread.request(DraftRequest(epoch=2, context=(1, 2), n_max=1))
    drafter.go_on.release(2)
    assert [(d.epoch, d.token) for d in drafts_of(thread, arrived, 2)] == [(2, 5), (2, None)]
    thread.close()


def test_what_the_drafter_raises_reaches_the_head():
    class Broken:
        def propose(self, context, n_candidates=1):
            raise RuntimeError("out of order")
            yield

    arrived = threading.Semaphore(0)
    thread = DraftThread(Broken(), arrived.release)
    thread.request(DraftRequest(epoch=0, context=(1,), n_max=1))
    assert arrived.acquire(timeout=WAIT_S)
    with pytest.raises(RuntimeError, match="out of order"):
        thread.take()
    thread.close()


def test_a_failed_pipeline_does_not_wait_for_a_drafter_that_never_returns():
    class Stuck:
        begun, end = threading.Semaphore(0), threading.Event()

        def propose(self, context, n_candidates=1):
            self.begun.release()
            self.end.wait(WAIT_S)
            return iter(())

    drafter = Stuck()
    thread = DraftThread(drafter, lambda: False)
    thread.request(DraftRequest(epoch=0, context=(1,), n_max=1))
    assert drafter.begun.acquire(timeout=WAIT_S)
    thread.close()
    assert not drafter.end.is_set()
    assert thread._worker not in thread._worker._idle, "it is not free for others"
    drafter.end.set()


class SlowModel:
    """What a drafter needs of a model; it decodes when it is allowed to."""

    n_vocab, eos = 1 << 20, 0

    def __init__(self):
        self.decoding, self.go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.decoded = []
        self.is_freed = False

    def keep(self, n_tokens):
        pass

    def top(self, n_vocab, params, n):
        return [(7, 1.0)]

    def feed(self, ids):
        self.decoding.release()
        assert self.go_on.acquire(timeout=WAIT_S)
        assert not self.is_freed
        self.decoded += ids

    def close(self):
        self.is_freed = True


@pytest.fixture
def llama(monkeypatch):
    slow = SlowModel()
    monkeypatch.setattr(draft_model.llama_cpp, "capture_log", lambda: None)
    monkeypatch.setattr(draft_model.draft, "DraftModel", lambda *_, **__: slow)
    return slow


LONG = tuple(range(5 * N_BATCH + 3))


def test_a_draft_model_stops_reading_where_its_draft_is_not_wanted_any_more(llama):
    model, arrived = ModelDrafter(Path("m"), n_ctx=1000), threading.Semaphore(0)
    thread = DraftThread(model, arrived.release)
    thread.request(DraftRequest(epoch=1, context=LONG, n_max=1))
    assert llama.decoding.acquire(timeout=WAIT_S)
    thread.set_epoch(2)
    llama.go_on.release()
    thread.request(DraftRequest(epoch=2, context=(*LONG, 9), n_max=1))
    assert llama.decoding.acquire(timeout=WAIT_S)
    assert llama.decoded == list(LONG[:N_BATCH])
    llama.go_on.release(5)
    assert [d.token for d in drafts_of(thread, arrived, 2)] == [7, None]
    assert llama.decoded == [*LONG, 9]
    thread.close()
    model.close()
    assert llama.is_freed


def test_a_signal_that_ends_the_wait_for_a_drafter_leaves_its_model_alone(llama):
    def interrupt(signum, _frame):
        raise Interrupted(signum)

    model, arrived = ModelDrafter(Path("m"), n_ctx=1000), threading.Semaphore(0)
    thread = DraftThread(model, arrived.release)
    thread.request(DraftRequest(epoch=1, context=LONG, n_max=1))
    assert llama.decoding.acquire(timeout=WAIT_S)
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(Interrupted):
            thread.close()
    finally:
        signal.signal(signal.SIGALRM, before)
    model.close()
    assert not llama.is_freed
    llama.go_on.release(2)
    thread._worker.give_back(lambda: None)
    assert llama.decoded == list(LONG[:N_BATCH])
    assert not arrived.acquire(blocking=False), "what is told may be gone by now"
