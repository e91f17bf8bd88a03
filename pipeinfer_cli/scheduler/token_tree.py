"""The token tree: the decided text, and what was drafted after it. A chain is a tree of width 1."""

from __future__ import annotations

import enum
import math
from bisect import insort
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from pipeinfer_cli.scheduler.interfaces import Candidate, DraftBatch

SMALLEST_PROBABILITY = 1e-9  # of a drafted token: its logarithm is finite
N_FORGOTTEN_MAX = 64  # nodes


class State(enum.Enum):
    """What is known of a node."""

    DRAFTED = enum.auto()  # believed; neither confirmed nor refuted
    DECIDED = enum.auto()  # in the text
    DEAD = enum.auto()  # wrong, or after something wrong


class Verdict(enum.Enum):
    """How the target's token compares with what was drafted there."""

    ACCEPTED = enum.auto()  # it was drafted, and fed
    KNOWN = enum.auto()  # it was drafted, but not fed yet
    MISSED = enum.auto()  # something else was drafted
    BONUS = enum.auto()  # nothing was


@dataclass(slots=True, eq=False)
class Node:
    """A token at a position of the text, or of what may follow it."""

    token: int
    position: int
    parent: Node | None
    log_probability: float  # of the whole path, as the drafter sees it; 0 for the text
    state: State = State.DRAFTED
    children: dict[int, Node] = field(default_factory=dict)  # by token
    is_open: bool = True  # the drafter may be asked what follows
    is_fed: bool = False  # it was submitted with a run
    sequence: int = -1  # the sequence id under which it was fed
    ahead: int = 0  # how many tokens ahead of the text it was then: 1, 2, ...; 0: decided before
    next_token: int | None = None  # what the target says follows
    number: int = 0  # of the drafted nodes, in the order in which they were added
    candidates: Sequence[Candidate] = ()  # what the drafter says follows, as it says it


class TokenTree:
    """Decided tokens, and below the last of them, the `root`, the drafted ones.

    Nodes enter by `add`; `decide` moves the root to what the target says, and everything beside
    that path dies.
    """

    def __init__(self, prompt: Sequence[int]) -> None:
        self.text = list(prompt)  # decided tokens, by position
        self.root = _decided(prompt[-1], len(prompt) - 1, parent=None)
        self.n_drafted = 0  # nodes below the root
        self.n_unfed = 0  # of these, not submitted yet
        self.version = 0  # grows with each change
        # Drafted nodes, sorted: the most probable first, of equals the older, so that parents come
        # before children. What is no longer of interest is skipped, and forgotten by and by.
        self._open: list[_Entry] = []
        self._unfed: list[_Entry] = []
        self._n_added = 0

    def add(self, parent: Node, token: int, probability: float) -> Node:
        """A drafted token after `parent`, which the drafter gives this probability."""
        assert token not in parent.children and parent.state is not State.DEAD
        probability = max(probability, SMALLEST_PROBABILITY)
        node = Node(token, parent.position + 1, parent, parent.log_probability)
        node.number = self._n_added + 1
        node.log_probability += math.log(probability)
        parent.children[token] = node
        self.n_drafted += 1
        self.n_unfed += 1
        self.version += 1
        self._n_added += 1
        entry = (-node.log_probability, self._n_added, node)
        insort(self._open, entry)
        insort(self._unfed, entry)
        return node

    def best_open(self) -> Node | None:
        """The most probable node whose children the drafter has not been asked for."""
        nodes = self.open_nodes(1)
        return nodes[0] if nodes else None

    def open_nodes(self, n_most: int) -> list[Node]:
        """The most probable nodes whose children the drafter has not been asked for."""
        nodes = [self.root] if self.root.is_open else []
        return nodes + _first(self._open, n_most - len(nodes), lambda node: node.is_open)

    def unfed_nodes(self, n_most: int) -> list[Node]:
        """The most probable drafted nodes that were not fed; parents come before children."""
        return _first(self._unfed, n_most, lambda node: not node.is_fed)

    def pop_unfed(self) -> Node | None:
        """The most probable drafted node that was not fed; parents come before children."""
        nodes = self.unfed_nodes(1)
        if not nodes:
            return None
        del self._unfed[0]
        return nodes[0]

    def put_back(self, node: Node) -> None:
        """The node, just popped, was not fed after all."""
        insort(self._unfed, (-node.log_probability, node.number, node))

    def mark_fed(self, node: Node) -> None:
        """The node, the root or a drafted one, was submitted with a run."""
        node.is_fed = True
        self.version += 1
        self.n_unfed -= node.state is State.DRAFTED

    def decide(self) -> tuple[Verdict, list[Node]]:
        """Moves the root to the token that the target says follows it, which has to be known.

        Also says which nodes have died.
        """
        token = self.root.next_token
        assert token is not None
        old, child = self.root, self.root.children.pop(token, None)
        dead = [node for sibling in old.children.values() for node in _subtree(sibling)]
        for node in dead:
            self._kill(node)
        if child is not None:
            self.n_drafted -= 1
            self.n_unfed -= not child.is_fed
            verdict = Verdict.ACCEPTED if child.is_fed else Verdict.KNOWN
        else:
            verdict = Verdict.MISSED if dead else Verdict.BONUS
            child = _decided(token, old.position + 1, old)
        child.state = State.DECIDED
        old.children = {token: child}
        old.parent = None  # the text before is not needed: let it go
        self.text.append(token)
        self.root = child
        self.version += 1
        self._forget_others()
        return verdict, dead

    def _forget_others(self) -> None:
        """Lists of a long text do not fill up with nodes that have long been decided."""
        for entries in (self._open, self._unfed):
            if len(entries) > 2 * self.n_drafted + N_FORGOTTEN_MAX:
                entries[:] = [entry for entry in entries if entry[2].state is State.DRAFTED]

    def drop_unfed(self) -> None:
        """Forgets what was drafted but not fed."""
        while (node := self.pop_unfed()) is not None:
            assert node.parent is not None
            del node.parent.children[node.token]
            for each in _subtree(node):
                self._kill(each)

    def prune(self, keep: Collection[Node]) -> list[Node]:
        """Forgets all drafted nodes but these, which are a path from the root on.

        Returns those that have died.
        """
        dead: list[Node] = []
        for node in (self.root, *keep):
            for child in [each for each in node.children.values() if each not in keep]:
                del node.children[child.token]
                dead += _subtree(child)
        for each in dead:
            self._kill(each)
        self._forget_others()
        return dead

    def _kill(self, node: Node) -> None:
        node.state = State.DEAD
        self.version += 1
        self.n_drafted -= 1
        self.n_unfed -= not node.is_fed

    def batch(self, nodes: Sequence[Node], epoch: int, n_candidates: int) -> DraftBatch:
        """The drafter shall say what follows these nodes, drafted ones or the root."""
        branches = tuple(self._branch(node) for node in nodes)
        return DraftBatch(epoch, self.text, len(self.text), branches, n_candidates)

    def _branch(self, node: Node) -> tuple[int, ...]:
        path = []
        while node is not self.root:
            assert node.parent is not None
            path.append(node.token)
            node = node.parent
        return tuple(reversed(path))


_Entry = tuple[float, int, Node]  # in order of probability; the number makes it unique


def _first(entries: list[_Entry], n_most: int, is_wanted: Callable[[Node], bool]) -> list[Node]:
    """The first nodes that are still of interest; they move to the front, the others go."""
    found: list[_Entry] = []
    n_seen = 0
    for entry in entries:
        if len(found) == n_most:
            break
        n_seen += 1
        if entry[2].state is State.DRAFTED and is_wanted(entry[2]):
            found.append(entry)
    if n_seen > len(found):
        entries[:n_seen] = found
    return [entry[2] for entry in found]


def _decided(token: int, position: int, parent: Node | None) -> Node:
    return Node(token, position, parent, log_probability=0.0, state=State.DECIDED)


def _subtree(node: Node) -> Iterator[Node]:
    """The node and all below it, parents first."""
    todo = [node]
    while todo:
        each = todo.pop()
        yield each
        todo += each.children.values()
