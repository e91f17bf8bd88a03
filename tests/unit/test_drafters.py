"""N-gram lookup, the order of drafters, and the thread that drafts."""

import threading
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeinfer_cli.drafters import FirstThatKnows, NgramDrafter
from pipeinfer_cli.drafting import DraftThread
from pipeinfer_cli.sequences import common_prefix
from pipeinfer_cli.speculation import DraftRequest

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
    assert proposed(FirstThatKnows(Fixed(), Fixed(1, 2), Fixed(3)), [0]) == [1, 2]
    assert proposed(FirstThatKnows(Fixed(), Fixed()), [0]) == []


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
