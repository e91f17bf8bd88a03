"""The token tree's lists of what may be drafted or fed next, against a search through the tree."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from pipeinfer_cli.scheduler.token_tree import Node, State, TokenTree

N_STEPS = 400


def below(node: Node) -> Iterator[Node]:
    """All nodes after this one."""
    for child in node.children.values():
        yield child
        yield from below(child)


def in_order(nodes: Iterator[Node] | list[Node]) -> list[Node]:
    return sorted(nodes, key=lambda node: (-node.log_probability, node.number))


def check(tree: TokenTree) -> None:
    drafted = [node for node in below(tree.root) if node.state is State.DRAFTED]
    unfed = in_order([node for node in drafted if not node.is_fed])
    is_open = in_order([node for node in drafted if node.is_open])
    assert tree.n_drafted == len(drafted)
    assert tree.n_unfed == len(unfed)
    assert tree.unfed_nodes(7) == unfed[:7]
    assert [tree.unfed_node(index) for index in (0, 3)] == [
        unfed[index] if index < len(unfed) else None for index in (0, 3)
    ]
    root = [tree.root] if tree.root.is_open else []
    assert tree.open_nodes(7) == (root + is_open)[:7]
    assert tree.best_open() is next(iter(root + is_open), None)


def path(tree: TokenTree, node: Node) -> tuple[int, ...]:
    tokens: list[int] = []
    while node is not tree.root:
        tokens.insert(0, node.token)
        assert node.parent is not None
        node = node.parent
    return tuple(tokens)


class Play:
    """What happens to a tree, drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.tree = TokenTree([1])
        self.asked: list[Node] = []

    def step(self) -> None:
        often, seldom = (self.ask, self.answer, self.feed), (self.decide, self.reopen, self.drop)
        self.random.choice(30 * often + seldom)()

    def ask(self) -> None:
        if nodes := self.tree.open_nodes(self.random.randint(1, 6)):
            for node in nodes:
                self.tree.mark_asked(node)
            batch = self.tree.batch(nodes, 1, 8)
            assert batch.branches == tuple(path(self.tree, node) for node in nodes)
            self.asked += nodes

    def answer(self) -> None:
        while self.asked:
            node = self.asked.pop(0)
            if node is self.tree.root or node.state is State.DRAFTED:
                for token in range(self.random.randint(0, 3)):
                    if token not in node.children:
                        self.tree.add(node, token, self.random.choice([0.5, 0.3, 0.1]))

    def feed(self) -> None:
        root = self.tree.root
        if not root.is_fed:
            self.tree.mark_fed(root)
        for node in self.tree.unfed_nodes(self.random.randint(0, 4)):
            self.tree.mark_fed(node)

    def decide(self) -> None:
        self.tree.root.next_token = self.random.choice([0, 0, 0, 1, 2])
        self.tree.decide()
        self.asked = [node for node in self.asked if node.state is State.DRAFTED]

    def reopen(self) -> None:
        for node in self.asked:
            self.tree.reopen(node)
        self.asked.clear()

    def drop(self) -> None:
        if self.random.random() < 0.1:
            self.tree.drop_unfed()
            self.asked = [node for node in self.asked if node.state is State.DRAFTED]


@pytest.mark.parametrize("seed", range(20))
def test_the_lists_are_those_of_a_search(seed: int) -> None:
    play = Play(seed)
    for _ in range(N_STEPS):
        play.step()
        check(play.tree)


def test_a_fed_node_whose_answer_is_not_awaited_is_open_again() -> None:
    """As when speculation ends while the drafter is at a node that was submitted."""
    tree = TokenTree([1])
    tree.mark_asked(tree.root)
    node = tree.add(tree.root, 2, 0.9)
    tree.mark_fed(tree.root)
    tree.mark_fed(node)
    tree.mark_asked(node)
    assert tree.open_nodes(1) == []
    tree.reopen(node)
    assert tree.open_nodes(2) == [node]
    assert tree.n_unfed == 0
