"""N-gram lookup, the order of drafters, and the thread that drafts."""

import signal
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeinfer_cli.drafters import model as draft_model
from pipeinfer_cli.drafters.chosen import ChosenDrafter
from pipeinfer_cli.drafters.fallback import FallbackDrafter
from pipeinfer_cli.drafters.model import N_BATCH, ModelDrafter
from pipeinfer_cli.drafters.ngram import NgramDrafter, trust
from pipeinfer_cli.drafters.thread import DraftThread
from pipeinfer_cli.errors import Interrupted
from pipeinfer_cli.scheduler.interfaces import DraftBatch, candidates_after
from pipeinfer_cli.scheduler.kv_sequences import common_prefix
from scripted import CountedText

WAIT_S = 10


def batch(text, *branches, n_text=None, epoch=0, n_candidates=3):
    return DraftBatch(epoch, text, len(text) if n_text is None else n_text, branches, n_candidates)


def expanded(drafter, text, *branches, **kwargs):
    return drafter.expand(batch(text, *branches, **kwargs), lambda: True)


def tokens_of(answers):
    return [[token for token, _ in candidates] for candidates in answers]


@pytest.mark.parametrize(
    ("text", "branch", "expected"),
    [
        ([1, 2, 3, 4, 1, 2], (), [3]),
        ([1, 2, 3, 4, 1, 2], (3,), [4]),  # an n-gram of text and branch
        ([1, 2, 3, 4, 9], (1, 2), [3]),  # of the branch alone
        ([1, 2, 3, 9, 5, 1, 2, 3, 7, 6, 1, 2, 3], (), [7, 9]),  # the latest place first
        ([8, 1, 2, 3, 9, 5, 2, 3, 7, 4, 1, 2, 3], (), [9, 7]),  # and longer matches
        ([1, 1, 1], (1, 1), [1]),  # what followed stands in the branch
        ([5, 6], (7, 5, 6), [7]),
        ([1, 2, 3, 4, 5], (), []),
        ([1], (), []),
        ([1], (1,), []),
    ],
)
def test_ngrams_of_a_branch(text, branch, expected):
    assert tokens_of(expanded(NgramDrafter(), text, branch)) == [expected]


def test_several_continuations_share_what_trust_there_is():
    ((first, second, third),) = expanded(NgramDrafter(), [1, 2, 9, 1, 2, 4, 8, 1, 2, 3, 1, 2], ())
    assert [first[0], second[0], third[0]] == [3, 4, 9]
    assert first[1] == trust(2) and second[1] == trust(2) * (1 - trust(2))
    assert first[1] + second[1] + third[1] < 1


def test_longer_matches_are_trusted_more():
    ((_, short),) = candidates_after(NgramDrafter(), [1, 2, 3, 1, 2], 1)
    ((_, long),) = candidates_after(NgramDrafter(), [1, 2, 3, 4, 5, 1, 2, 3, 4], 1)
    assert short < long


def test_a_text_that_nothing_is_known_of_has_no_candidates():
    class Unwanted:
        def expand(self, batch, is_wanted):
            return None

    assert candidates_after(NgramDrafter(), [1, 2, 3], 4) == []
    assert candidates_after(Unwanted(), [1, 2, 3], 4) == ()


def followers(text, ngram):
    """What followed it, the latest first, each once."""
    size = len(ngram)
    ends = range(len(text) - 1, size - 1, -1)
    return dict.fromkeys(text[end] for end in ends if tuple(text[end - size : end]) == ngram)


@given(
    st.lists(st.lists(st.integers(0, 3), max_size=12), min_size=1, max_size=8),
    st.lists(st.lists(st.integers(0, 3), max_size=6).map(tuple), min_size=1, max_size=4),
    st.randoms(use_true_random=True),
)
def test_ngrams_of_a_text_that_grows_or_shrinks_are_those_of_the_whole(pieces, branches, random):
    kept, text = NgramDrafter(), [0]
    for piece in pieces:
        if random.random() < 0.2:
            text = text[: random.randint(1, len(text))]
        text += piece
        n_text = random.choice([len(text), random.randint(1, len(text))])
        answers = expanded(kept, text, *branches, n_text=n_text, n_candidates=2)
        for branch, candidates in zip(branches, answers, strict=True):
            whole = [*text[:n_text], *branch]
            found = {}
            for size in range(min(4, len(whole)), 1, -1):
                found |= followers(whole, tuple(whole[-size:])) | found
            assert [token for token, _ in candidates] == list(found)[:2]
            assert all(0 < p < 1 for _, p in candidates)


def test_an_ngram_is_looked_up_without_reading_the_text_again():
    drafter, text = NgramDrafter(), CountedText(range(50))
    expanded(drafter, text, ())
    text.n_read = 0
    for step in range(1000):
        text.append(step % 7)
        expanded(drafter, text, (), (1, 2))
    assert text.n_read < 20 * 1000


class Fixed:
    def __init__(self, *tokens):
        self.tokens = tokens

    def expand(self, batch, is_wanted):
        """One candidate for the branches up to its length."""
        self.asked = batch.branches
        lengths = map(len, batch.branches)
        return [[(self.tokens[n], 1.0)] if n < len(self.tokens) else [] for n in lengths]


def test_each_branch_has_the_first_drafter_that_knows_something_of_it():
    nothing, short, long = Fixed(), Fixed(1), Fixed(2, 3, 4)
    drafter = FallbackDrafter(nothing, short, long)
    answers = expanded(drafter, [0], (), (9,), (9, 9), (9, 9, 9))
    assert tokens_of(answers) == [[1], [3], [4], []]
    assert long.asked == ((9,), (9, 9), (9, 9, 9))
    assert tokens_of(expanded(FallbackDrafter(Fixed(5), short), [0], ())) == [[5]]


def test_a_fallback_that_is_not_wanted_ends_the_whole_batch():
    class Unwanted:
        def expand(self, batch, is_wanted):
            return None

    assert expanded(FallbackDrafter(Fixed(1), Unwanted()), [0], (), (9,)) is None


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_common_prefix(a, b):
    length = common_prefix(a, b)
    assert a[:length] == b[:length]
    assert length == min(len(a), len(b)) or a[length] != b[length]


def test_a_failed_pipeline_does_not_wait_for_a_drafter_that_never_returns():
    class Stuck:
        begun, end = threading.Semaphore(0), threading.Event()

        def expand(self, batch, is_wanted):
            self.begun.release()
            self.end.wait(WAIT_S)

    drafter = Stuck()
    thread = DraftThread(drafter, lambda: False)
    thread.request(batch([1], ()))
    assert drafter.begun.acquire(timeout=WAIT_S)
    thread.close()
    assert not drafter.end.is_set()
    assert thread._worker not in thread._worker._idle, "it is not free for others"
    drafter.end.set()


def answers_of(thread, arrived, n):
    answers = []
    while len(answers) < n:
        assert arrived.acquire(timeout=WAIT_S)
        answers += thread.take()
    return answers


def test_the_thread_answers_each_batch_once():
    arrived = threading.Semaphore(0)
    thread = DraftThread(Fixed(7, 8), arrived.release)
    for epoch in (3, 4):
        thread.request(batch([1, 2], (), (7,), (7, 8), epoch=epoch))
        (answer,) = answers_of(thread, arrived, 1)
        assert answer.epoch == epoch
        assert tokens_of(answer.candidates) == [[7], [8], []]
        assert answer.took_us >= 0
    thread.close()
    assert not arrived.acquire(blocking=False)


class Waiting:
    """Answers when it is allowed to; None if it is not wanted then."""

    def __init__(self):
        self.begun, self.go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.epochs = []

    def expand(self, batch, is_wanted):
        self.epochs.append(batch.epoch)
        self.begun.release()
        assert self.go_on.acquire(timeout=WAIT_S)
        return [[(batch.epoch, 1.0)]] if is_wanted() or batch.epoch == 1 else None


@pytest.mark.parametrize("epoch", [1, 2])
def test_of_several_batches_the_latest_is_carried_out(epoch):
    """One that is under way ends without an answer, also if the drafter has one."""
    arrived, drafter = threading.Semaphore(0), Waiting()
    thread = DraftThread(drafter, arrived.release)
    thread.request(batch([1], (), epoch=epoch))
    assert drafter.begun.acquire(timeout=WAIT_S)
    for later in (7, 8, 9):
        thread.request(batch([1], (), epoch=later))
    drafter.go_on.release(2)
    assert [each.epoch for each in answers_of(thread, arrived, 1)] == [9]
    assert drafter.epochs == [epoch, 9]
    thread.close()


def test_what_a_drafter_raises_for_a_batch_reaches_the_head():
    class Broken:
        def expand(self, batch, is_wanted):
            raise RuntimeError("out of order")

    arrived = threading.Semaphore(0)
    thread = DraftThread(Broken(), arrived.release)
    thread.request(batch([1], ()))
    assert arrived.acquire(timeout=WAIT_S)
    with pytest.raises(RuntimeError, match="out of order"):
        thread.take()
    thread.close()


class SlowModel:
    """What a drafter needs of a model; it decodes when it is allowed to."""

    n_vocab, eos = 1 << 20, 0

    def __init__(self):
        self.decoding, self.go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.decoded = []
        self.is_freed = False

    def expand(self, run, n_vocab, params):
        self.decoding.release()
        assert self.go_on.acquire(timeout=WAIT_S)
        assert not self.is_freed
        self.decoded += [token.id for token in run.tokens]
        return [[(7, 1.0)]] * run.n_rows

    def close(self):
        self.is_freed = True


@pytest.fixture
def llama(monkeypatch):
    slow = SlowModel()
    monkeypatch.setattr(draft_model.llama_cpp, "capture_log", lambda: None)
    monkeypatch.setattr(draft_model.draft, "DraftModel", lambda *_, **__: slow)
    return slow


LONG = tuple(range(5 * N_BATCH + 3))


def test_a_draft_model_stops_reading_for_a_batch_that_is_not_wanted_any_more(llama):
    model, arrived = ModelDrafter(Path("m"), n_ctx=1000), threading.Semaphore(0)
    thread = DraftThread(model, arrived.release)
    text = list(LONG)
    thread.request(batch(text, (), epoch=1))
    assert llama.decoding.acquire(timeout=WAIT_S)
    thread.set_epoch(2)
    llama.go_on.release()
    text.append(9)
    thread.request(batch(text, (), (3,), epoch=2))
    assert llama.decoding.acquire(timeout=WAIT_S)
    assert llama.decoded == list(LONG[:N_BATCH])
    llama.go_on.release(5)
    (answer,) = answers_of(thread, arrived, 1)
    assert answer.epoch == 2
    assert answer.candidates == ([(7, 1.0)], [(7, 1.0)])
    assert llama.decoded == [*LONG, 9, 3]
    thread.close()
    model.close()
    assert llama.is_freed
    assert model.expand(batch(text, ()), lambda: True) is None, "it is not used after that"


def test_a_draft_model_is_not_fed_what_it_does_not_know(llama):
    model = ModelDrafter(Path("m"), n_ctx=100, n_shared=5)
    llama.go_on.release(9)
    assert expanded(model, [1, 9, 2], (7,)) == [[(7, 1.0)]]
    assert llama.decoded == [1, 0, 2, 0]


def test_a_signal_that_ends_the_wait_for_a_drafter_leaves_its_model_alone(llama):
    def interrupt(signum, _frame):
        raise Interrupted(signum)

    model, arrived = ModelDrafter(Path("m"), n_ctx=1000), threading.Semaphore(0)
    thread = DraftThread(model, arrived.release)
    thread.request(batch(LONG, (), epoch=1))
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


class Single:
    """Proposes the same token after each branch."""

    def __init__(self, token):
        self.token = token

    def expand(self, batch, is_wanted):
        return [[(self.token, 0.5)] for _ in batch.branches]


@pytest.mark.parametrize(("name", "token"), [("model", 1), ("ngram", 2), ("", 1), ("other", 1)])
def test_a_batch_names_the_drafter_that_answers_it(name, token):
    drafter = ChosenDrafter({"model": Single(1), "ngram": Single(2)})
    asked = DraftBatch(0, [7], 1, ((), (8,)), 3, name)
    assert tokens_of(drafter.expand(asked, lambda: True)) == [[token], [token]]
