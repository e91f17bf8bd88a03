"""What `pipeinfer` does without one of its parts: scripted drafts and results, step by step."""

from dataclasses import replace
from itertools import count

import pytest

from pipeinfer_cli.errors import UserError
from pipeinfer_cli.scheduler.policy import (
    ABLATIONS,
    DEFAULT_DRAFT,
    PAPER,
    DraftConfig,
    Policy,
    parse_strategy,
)
from pipeinfer_cli.scheduler.runs import Result, RunStatus
from pipeinfer_cli.scheduler.scheduler import Scheduler
from scripted import draft_next, take_runs

PROMPT = (50, 51)


class Play:
    """A scheduler after its prompt; token ids are what the test says."""

    def __init__(self, *ablations, draft, n_stages=3, n_max=40):
        policy = Policy.of("pipeinfer", draft, n_stages=n_stages, n_batch=32, ablations=ablations)
        policy = replace(policy, run_size=draft.n_max)
        self.scheduler = Scheduler(PROMPT, n_max=n_max, policy=policy, run_ids=count(1))
        self.in_flight = []
        self.cancels = []
        assert self.submit() == [list(PROMPT)]

    def submit(self):
        """The token ids of the runs that leave now."""
        self.cancels += self.scheduler.take_cancels()
        runs = take_runs(self.scheduler)
        self.in_flight += runs
        return [[token.id for token in run.tokens] for run in runs]

    def result(self, *rows):
        """The oldest run ends; the tokens that this decides."""
        run = self.in_flight.pop(0)
        return self.scheduler.on_result(
            Result(run_id=run.run_id, status=RunStatus.COMPLETED, rows=rows, times=())
        )

    def draft(self, *tokens, probability=1.0):
        """One token after the other; the texts that they were drafted for."""
        return [draft_next(self.scheduler, (token, probability)) for token in tokens]


def test_without_continuous_speculation_a_draft_waits_for_the_end_of_the_one_before():
    play = Play("no-continuous", draft=DraftConfig(n_max=2, p_min=0.0))
    play.draft(1, 2)
    assert play.scheduler.take_batch() is None  # continuous: as many as the stages hold
    assert play.submit() == [[1, 2]]
    assert play.scheduler.take_batch() is None
    assert play.result(1) == [1]  # the prompt's result: 1 is right, 2 is still on its way
    assert play.submit() == []
    assert play.scheduler.take_batch() is None
    assert play.result(2, 3) == [2, 3]  # the whole draft, and a bonus token
    assert play.submit() == [[3]]
    assert play.draft(4) == [(*PROMPT, 1, 2, 3)]


def test_without_continuous_speculation_a_miss_makes_room_for_the_next_draft():
    play = Play("no-continuous", draft=DraftConfig(n_max=2, p_min=0.0))
    play.draft(1, 2)
    play.submit()
    assert play.result(9) == [9]
    assert play.submit() == [[9]]
    assert play.cancels == [(2, 2)]
    assert play.draft(3) == [(*PROMPT, 9)]


def test_continuous_speculation_drafts_on_while_runs_are_in_flight():
    play = Play(draft=DraftConfig(n_max=2, p_min=0.0))
    play.draft(1, 2, 3, 4)
    assert play.submit() == [[1, 2], [3, 4]]
    play.draft(5, 6, 7, 8)
    assert play.scheduler.take_batch() is None, "what the stages hold is drafted"
    play.result(1)
    assert play.submit() == [[5, 6], [7, 8]]
    assert play.draft(9) == [(*PROMPT, *range(1, 9))]


@pytest.mark.parametrize("ablations", [(), ("no-cancel",)])
def test_without_cancellation_wrong_runs_go_on_and_decide_nothing(ablations):
    play = Play(*ablations, draft=DraftConfig(n_max=1, p_min=0.0))
    play.draft(1, 2)
    assert play.submit() == [[1], [2]]
    assert play.result(9) == [9]
    assert play.submit() == [[9]]
    assert play.cancels == ([] if ablations else [(2, 3)])
    assert play.scheduler.counters.n_invalidated == 2
    assert play.result(2) == []
    assert play.result(3) == []
    assert play.result(10) == [10]
    play.submit()
    play.scheduler.finish()
    play.submit()
    assert play.cancels == ([] if ablations else [(2, 3), (5, 5)])


@pytest.mark.parametrize("ablations", [(), ("no-reactive",)])
def test_without_reactive_cutoffs_an_unsure_token_is_never_released(ablations):
    play = Play(*ablations, draft=DraftConfig(n_max=1, p_min=0.5, p_decay=0.2))
    play.draft(1, probability=0.2)
    runs = [run for _ in range(5) for run in play.submit()]
    assert runs == ([] if ablations else [[1]])


@pytest.mark.parametrize("ablations", [(), ("no-reactive",)])
def test_without_reactive_cutoffs_a_miss_does_not_raise_them(ablations):
    play = Play(*ablations, draft=DraftConfig(n_max=1, p_min=0.5, p_recovery=0.4, p_decay=0.0))
    play.draft(1)
    assert play.submit() == [[1]]
    assert play.result(9) == [9]
    assert play.submit() == [[9]]
    play.draft(1, probability=0.8)
    assert play.submit() == ([[1]] if ablations else [])


def test_with_a_fixed_cutoff_drafting_goes_on_when_the_unsure_token_is_decided():
    play = Play("no-reactive", draft=DraftConfig(n_max=1, p_min=0.5))
    play.draft(1, probability=0.2)
    assert play.scheduler.take_batch() is None
    assert play.result(7) == [7]
    assert play.submit() == [[7]]
    assert play.draft(8) == [(*PROMPT, 7)]


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_all_of_them_follow_given_lengths_and_cutoffs(ablation):
    """Without one of its parts, `pipeinfer` is compared with the paper's."""
    whole, part = (
        Policy.of("pipeinfer", DEFAULT_DRAFT, n_stages=3, ablations=each)
        for each in ((), (ablation,))
    )
    paper = Policy.of("pipeinfer", DEFAULT_DRAFT, n_stages=3, ablations=(PAPER,))
    assert whole.is_adaptive
    assert not part.is_adaptive
    left_out = {ablation.replace("-", "_"): True} if ablation != PAPER else {}
    assert part == replace(paper, **left_out)
    assert (paper.draft.p_min, paper.draft.width) == (0.4, 1)
    assert not (paper.no_continuous or paper.no_cancel or paper.no_reactive)


def test_the_paper_drafts_one_node_at_a_time():
    scheduler = Scheduler(
        PROMPT,
        n_max=40,
        policy=Policy.of("pipeinfer", DEFAULT_DRAFT, n_stages=3, ablations=(PAPER,)),
        run_ids=count(1),
    )
    assert len(take_runs(scheduler)) == 1
    for n_drafted in range(5):
        assert draft_next(scheduler, (7, 0.9)) == (*PROMPT, *[7] * n_drafted)


@pytest.mark.parametrize("strategy", ["iterative", "speculative"])
def test_other_strategies_have_no_such_parts(strategy):
    with pytest.raises(UserError, match=f"--strategy {strategy}:no-cancel: only pipeinfer"):
        parse_strategy(f"{strategy}:no-cancel")
