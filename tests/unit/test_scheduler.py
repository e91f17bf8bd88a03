"""The scheduler against scripted models, drafters and pipelines: the text is always the model's."""

from collections import deque
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeinfer_cli.policy import DraftConfig, Policy
from pipeinfer_cli.runs import Fate, KvKind, Result
from pipeinfer_cli.scheduler import Draft, Scheduler

N_VOCAB = 11


def next_token(text):
    """The scripted model: a function of the whole text before."""
    return (7 * sum(text) + 3 * len(text) + text[-1] ** 2) % N_VOCAB


def plain(prompt, n_tokens):
    text = list(prompt)
    for _ in range(n_tokens):
        text.append(next_token(text))
    return text[len(prompt) :]


@dataclass
class ScriptedPipeline:
    """All stages as one: a cache of cells in the order of positions, runs answered in order."""

    cells: list = field(default_factory=list)
    queue: deque = field(default_factory=deque)
    cancelled: set = field(default_factory=set)
    last_run_id: int = 0

    def submit(self, run):
        assert run.run_id > self.last_run_id
        assert run.tokens
        self.last_run_id = run.run_id
        self.queue.append(run)

    def cancel(self, first, last):
        self.cancelled.update(range(first, last + 1))

    def answer(self):
        run = self.queue.popleft()
        for op in run.kv_ops:
            assert op.kind is KvKind.REMOVE
            del self.cells[op.pos_first :]
        rows = []
        is_cancelled = run.run_id in self.cancelled
        for token in () if is_cancelled else run.tokens:
            assert token.position == len(self.cells), "a run depends on a cell that is not there"
            assert token.seq_ids == (0,)
            self.cells.append(token.id)
            if token.want:
                rows.append(next_token(self.cells))
        fate = Fate.CANCELLED if is_cancelled else Fate.COMPLETED
        return Result(run_id=run.run_id, epoch=0, fate=fate, rows=tuple(rows), times=())


class Game:
    """The head's loop with every choice of timing, draft and probability drawn from data."""

    def __init__(self, data, prompt, n_max, policy):
        self.data = data
        self.scheduler = Scheduler(prompt, n_max=n_max, policy=policy, run_ids=count(1))
        self.pipeline = ScriptedPipeline()
        self.request = None
        self.drafted = []
        self.tokens = []
        self.n_max = n_max
        self.most_live = 0

    def play(self):
        while len(self.tokens) < self.n_max:
            self.exchange()
            can_draft, can_answer = self.request is not None, bool(self.pipeline.queue)
            assert can_draft or can_answer, "nothing is under way: the text would never end"
            if can_draft and (not can_answer or self.data.draw(st.booleans())):
                self.draft()
            else:
                self.tokens += self.scheduler.on_result(self.pipeline.answer())
        self.scheduler.finish()
        self.exchange()
        while not self.scheduler.is_idle:
            assert self.scheduler.on_result(self.pipeline.answer()) == []
        return self.tokens

    def exchange(self):
        if not self.scheduler.policy.is_synchronous and self.data.draw(st.integers(0, 9)) == 0:
            self.scheduler.set_speculating(self.data.draw(st.booleans()))
        for cancel in self.scheduler.take_cancels():
            self.pipeline.cancel(*cancel)
        for run in self.scheduler.take_runs():
            self.pipeline.submit(run)
        if (request := self.scheduler.take_draft_request()) is not None:
            self.request, self.drafted = request, []
        self.most_live = max(self.most_live, self.scheduler.n_live)

    def draft(self):
        request = self.request
        context = [*request.context, *self.drafted]
        if len(self.drafted) == request.n_max or self.data.draw(st.integers(0, 9)) == 0:
            self.request = None
            self.scheduler.on_draft(Draft(request.epoch, len(context), None))
            return
        is_right = self.data.draw(st.integers(0, 3)) > 0
        token = next_token(context) if is_right else self.data.draw(st.integers(0, N_VOCAB - 1))
        self.drafted.append(token)
        probability = self.data.draw(st.sampled_from([0.05, 0.5, 1.0]))
        self.scheduler.on_draft(Draft(request.epoch, len(context), token, probability))


prompts = st.lists(st.integers(0, N_VOCAB - 1), min_size=1, max_size=12)
drafts = st.builds(
    DraftConfig,
    n_max=st.integers(1, 5),
    p_min=st.sampled_from([0.0, 0.3, 1.0]),
    p_recovery=st.sampled_from([0.0, 0.2]),
    p_decay=st.sampled_from([0.0, 0.2]),
)
sizes = {"depth": st.integers(1, 6), "n_batch": st.integers(1, 8)}
policies = st.builds(Policy, draft=st.none(), **sizes) | st.builds(
    Policy, draft=drafts, is_synchronous=st.booleans(), **sizes
)


@settings(max_examples=2500, deadline=None)
@given(prompt=prompts, n_max=st.integers(1, 12), policy=policies, data=st.data())
def test_the_text_is_the_models_whatever_happens(prompt, n_max, policy, data):
    game = Game(data, prompt, n_max, policy)
    assert game.play()[:n_max] == plain(prompt, n_max)
    counters = game.scheduler.counters
    assert counters.n_accepted <= counters.n_drafted
    assert counters.n_decided >= n_max
    assert game.most_live <= max(policy.depth + 1, 2 * policy.depth)
    assert sum(counters.ahead_drafted.values()) == counters.n_drafted
    assert sum(counters.ahead_accepted.values()) == counters.n_accepted


def runs_of(policy, drafted, n_max=20, prompt=(1, 2, 3)):
    """Plays with a drafter that proposes `drafted` at once; the runs' sizes until the first row."""
    scheduler = Scheduler(prompt, n_max=n_max, policy=policy, run_ids=count(1))
    pipeline = ScriptedPipeline()
    for run in scheduler.take_runs():
        pipeline.submit(run)
    sizes = [len(run.tokens) for run in pipeline.queue]
    request = scheduler.take_draft_request()
    if request:
        for index, token in enumerate(drafted):
            position = len(request.context) + index
            scheduler.on_draft(Draft(request.epoch, position, token))
            sizes += [len(run.tokens) for run in scheduler.take_runs()]
    return sizes


def test_asynchronous_runs_follow_one_another_while_drafting_goes_on():
    draft = DraftConfig(n_max=4, p_min=0.0)
    assert runs_of(Policy(draft=draft, depth=4), [5, 6, 7, 8, 9]) == [3, 1, 1, 1]


def test_the_run_of_a_corrected_token_leaves_at_once_with_the_removal():
    policy = Policy(draft=DraftConfig(n_max=2, p_min=0.0), depth=3)
    scheduler = Scheduler((1, 2), n_max=9, policy=policy, run_ids=count(1))
    pipeline = ScriptedPipeline()
    pipeline.submit(scheduler.take_runs()[0])
    request = scheduler.take_draft_request()
    right = next_token([1, 2])
    for index, token in enumerate([right, (next_token([1, 2, right]) + 1) % N_VOCAB, 0, 0]):
        scheduler.on_draft(Draft(request.epoch, 2 + index, token))
    for run in scheduler.take_runs():
        pipeline.submit(run)
    assert [len(run.tokens) for run in pipeline.queue] == [2, 2, 2]
    assert scheduler.on_result(pipeline.answer()) == [right]
    decided = scheduler.on_result(pipeline.answer())
    assert decided == [next_token([1, 2, right])]
    assert scheduler.take_cancels() == [(3, 3)]
    (corrected,) = scheduler.take_runs()
    assert [(token.id, token.position) for token in corrected.tokens] == [(decided[0], 3)]
    assert corrected.kv_ops[0].pos_first == 3
    assert scheduler.counters.n_invalidated == 1


def test_a_synchronous_run_waits_for_the_whole_draft():
    draft = DraftConfig(n_max=3, p_min=0.0)
    policy = Policy(draft=draft, is_synchronous=True, depth=4)
    scheduler = Scheduler((1, 2), n_max=9, policy=policy, run_ids=count(1))
    pipeline = ScriptedPipeline()
    pipeline.submit(scheduler.take_runs()[0])
    assert scheduler.take_draft_request() is None
    text = [1, 2, *scheduler.on_result(pipeline.answer())]
    request = scheduler.take_draft_request()
    assert request.context == tuple(text)
    for index in range(3):
        assert scheduler.take_runs() == []
        scheduler.on_draft(Draft(request.epoch, 3 + index, next_token(text)))
        text.append(next_token(text))
    scheduler.on_draft(Draft(request.epoch, 6, None))
    (run,) = scheduler.take_runs()
    assert [token.id for token in run.tokens] == text[2:]
    pipeline.submit(run)
    assert len(scheduler.on_result(pipeline.answer())) == 4  # three accepted, and the bonus


def test_an_unsure_token_waits_until_the_pipeline_would_idle():
    draft = DraftConfig(n_max=1, p_min=0.5, p_decay=0.2)
    scheduler = Scheduler((1,), n_max=9, policy=Policy(draft=draft, depth=3), run_ids=count(1))
    assert len(scheduler.take_runs()) == 1
    request = scheduler.take_draft_request()
    scheduler.on_draft(Draft(request.epoch, 1, 4, probability=0.2))
    assert scheduler.take_runs() == []  # the cutoff falls to 0.3
    (run,) = scheduler.take_runs()  # and to 0.1
    assert [token.id for token in run.tokens] == [4]


def test_a_drafter_that_knows_nothing_is_asked_again_when_the_text_is_longer():
    policy = Policy(draft=DraftConfig(), depth=3)
    scheduler = Scheduler((1,), n_max=9, policy=policy, run_ids=count(1))
    pipeline = ScriptedPipeline()
    pipeline.submit(scheduler.take_runs()[0])
    request = scheduler.take_draft_request()
    scheduler.on_draft(Draft(request.epoch, 1, None))
    assert scheduler.take_draft_request() is None
    scheduler.on_result(pipeline.answer())
    assert scheduler.take_draft_request() is not None


@pytest.mark.parametrize("n_batch", [1, 2, 7])
def test_prefill_goes_in_pieces_and_only_its_last_token_wants_a_row(n_batch):
    policy = Policy(depth=9, n_batch=n_batch)
    scheduler = Scheduler([5, 6, 7, 8, 9], n_max=3, policy=policy, run_ids=count(1))
    runs = scheduler.take_runs()
    assert [token.want for run in runs for token in run.tokens] == [False] * 4 + [True]
    assert all(len(run.tokens) <= n_batch for run in runs)
