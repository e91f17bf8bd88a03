"""Iterative scheduling against a scripted model: which token follows is a function of the text."""

from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from pipeinfer_cli.runs import Fate, Result
from pipeinfer_cli.scheduler import Iterative


def next_token(text):
    """The scripted model: any function of the whole text before."""
    return (7 * sum(text) + len(text)) % 101


class ScriptedPipeline:
    """Answers runs in order, and checks that each one fits what it has seen before."""

    def __init__(self):
        self.seen = []  # tokens in the cache, by position
        self.last_run_id = 0

    def answer(self, run):
        assert run.run_id > self.last_run_id
        self.last_run_id = run.run_id
        rows = []
        for token in run.tokens:
            assert token.position == len(self.seen)
            self.seen.append(token.id)
            if token.want:
                rows.append(next_token(self.seen))
        return Result(
            run_id=run.run_id, epoch=run.epoch, fate=Fate.COMPLETED, rows=tuple(rows), times=()
        )


def plain(prompt, n_tokens):
    text = list(prompt)
    for _ in range(n_tokens):
        text.append(next_token(text))
    return text[len(prompt) :]


@given(
    prompt=st.lists(st.integers(0, 100), min_size=1, max_size=40),
    n_batch=st.integers(1, 12),
    depth=st.integers(1, 5),
    data=st.data(),
)
def test_text_is_the_models_however_late_results_come(prompt, n_batch, depth, data):
    scheduler = Iterative(prompt, n_batch=n_batch, depth=depth, run_ids=count(1))
    pipeline, in_flight, tokens = ScriptedPipeline(), [], []
    while len(tokens) < 8:
        runs = scheduler.take_runs()
        in_flight += runs
        assert 1 <= len(in_flight) <= depth
        assert all(1 <= len(run.tokens) <= n_batch for run in runs)
        for _ in range(data.draw(st.integers(1, len(in_flight)))):
            tokens += scheduler.on_result(pipeline.answer(in_flight.pop(0)))
    assert tokens == plain(prompt, 8)
    assert not in_flight


def test_only_the_prompts_last_token_wants_a_row():
    scheduler = Iterative([5, 6, 7, 8, 9], n_batch=2, depth=9, run_ids=count(1))
    wanted = [[token.want for token in run.tokens] for run in scheduler.take_runs()]
    assert wanted == [[False, False], [False, False], [True]]


def test_run_ids_go_on_from_request_to_request():
    run_ids = count(1)
    first = Iterative([1], n_batch=1, depth=1, run_ids=run_ids).take_runs()
    second = Iterative([1], n_batch=1, depth=1, run_ids=run_ids).take_runs()
    assert [run.run_id for run in first + second] == [1, 2]
