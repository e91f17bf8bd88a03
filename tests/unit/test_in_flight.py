"""Which runs are given up when nodes of the token tree die, against the rule as it is stated."""

from __future__ import annotations

import random

import pytest

from pipeinfer_cli.scheduler.in_flight import InFlightRuns
from pipeinfer_cli.scheduler.metrics import Counters
from pipeinfer_cli.scheduler.runs import Result, Run, RunStatus, RunToken
from pipeinfer_cli.scheduler.token_tree import Node, State, TokenTree

N_STEPS = 300


class Play:
    """Runs of one to four nodes of a tree; those in flight are kept here once more."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.tree = TokenTree([1])
        self.runs = InFlightRuns(Counters(), no_cancel=False)
        self.submitted: list[tuple[Run, list[Node]]] = []
        self.live: set[int] = set()  # run ids
        self.next_id = 1
        self.tree.mark_fed(self.tree.root)
        self.submit([self.tree.root])

    def submit(self, nodes: list[Node]) -> None:
        tokens = tuple(RunToken(id=each.token, position=each.position, want=True) for each in nodes)
        run = Run(run_id=self.next_id, tokens=tokens)
        self.next_id += 1
        self.runs.add(run, nodes)
        self.submitted.append((run, nodes))
        self.live.add(run.run_id)

    def draft_and_feed(self) -> None:
        for node in self.tree.open_nodes(2):
            self.tree.mark_asked(node)
            for token in range(3):
                self.tree.add(node, token, 0.5 - 0.2 * token)
        nodes = self.tree.unfed_nodes(self.random.randint(1, 4))
        for node in nodes:
            self.tree.mark_fed(node)
        self.submit(nodes)

    def take_result(self) -> None:
        run, nodes = self.submitted.pop(0)
        is_live = run.run_id in self.live
        self.live.discard(run.run_id)
        status = RunStatus.COMPLETED if is_live else RunStatus.CANCELLED
        rows = tuple(self.random.choice([0, 0, 1, 3]) for _ in nodes) if is_live else ()
        self.runs.complete(Result(run_id=run.run_id, status=status, rows=rows, times=()))
        while self.tree.root.next_token is not None:
            _, dead = self.tree.decide()
            if dead:
                self.runs.give_up_wrong(dead)
        if not self.tree.root.is_fed:
            self.tree.mark_fed(self.tree.root)
            self.submit([self.tree.root])

    def expected_cancels(self) -> set[int]:
        """Runs of dead nodes only, on which no other live run rests: the latest first."""
        needed: set[Node | None] = set()
        wrong: set[int] = set()
        for run, nodes in reversed(self.submitted):
            is_dead = all(node.state is State.DEAD for node in nodes)
            if is_dead and needed.isdisjoint(nodes):
                wrong.add(run.run_id)
            elif run.run_id in self.live:
                needed.update(node.parent for node in nodes)
        return wrong & self.live


@pytest.mark.parametrize("seed", range(20))
def test_what_is_wrong_is_given_up_unless_a_run_rests_on_it(seed: int) -> None:
    play, n_cancelled, n_kept = Play(seed), 0, 0
    for _ in range(N_STEPS):
        if len(play.submitted) < 6:
            play.draft_and_feed()
            continue
        play.take_result()
        expected = play.expected_cancels()
        cancels = play.runs.take_cancels()
        cancelled = {each for first, last in cancels for each in range(first, last + 1)}
        assert cancelled == expected
        play.live -= cancelled
        assert play.runs.n_live == len(play.live)
        n_cancelled += len(cancelled)
        n_kept += sum(
            all(node.state is State.DEAD for node in nodes)
            for run, nodes in play.submitted
            if run.run_id in play.live
        )
    assert n_cancelled > 0
    assert n_kept > 0, "no wrong run was kept because another one rests on it"
