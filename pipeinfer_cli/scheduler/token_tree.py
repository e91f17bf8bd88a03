"""The token tree: the decided text, and what was drafted after it. A chain is a tree of width 1."""

from __future__ import annotations

import enum
import math
from bisect import bisect_left, insort
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from pipeinfer_cli.scheduler.interfaces import Branch, Candidate, Constraint, DraftBatch
from pipeinfer_cli.scheduler.runs import Mask

SMALLEST_PROBABILITY = 1e-9  # of a drafted token: its logarithm is finite
FEW = 8  # a part of the nodes that is this many times smaller is removed one by one


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
    is_open: bool = True  # the drafter was not asked what follows
    is_fed: bool = False  # it was submitted with a run
    sequence: int = -1  # the sequence id under which it was fed
    ahead: int = 0  # how many tokens ahead of the text it was then: 1, 2, ...; 0: decided before
    next_token: int | None = None  # what the target says follows
    number: int = 0  # of the drafted nodes, in the order in which they were added
    candidates: Sequence[Candidate] = ()  # what the drafter says follows, as it says it
    branch: Branch = ()  # the end of its path, if the drafter was asked what follows it
    constraint: Constraint | None = None  # what may follow; None: anything

    @property
    def mask(self) -> Mask | None:
        """The tokens that may follow; None: any, or none that is in the text."""
        return self.constraint.mask if self.constraint is not None else None

    @property
    def is_end(self) -> bool:
        """Whether it ends the text."""
        return self.constraint is not None and self.constraint.is_over

    def allowed(self, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """Those of the drafter's candidates that may follow."""
        if (mask := self.mask) is None:
            return () if self.is_end else candidates
        return [each for each in candidates if mask.allows(each[0])]


class _Ranking:
    """Nodes, the most probable first, of equals the older: so parents come before children."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []

    def __len__(self) -> int:
        return len(self._entries)

    def first(self, n_most: int) -> list[Node]:
        return [entry[2] for entry in self._entries[:n_most]]

    def at(self, index: int) -> Node | None:
        return self._entries[index][2] if index < len(self._entries) else None

    def add(self, entry: _Entry) -> None:
        insort(self._entries, entry)

    def remove(self, node: Node) -> None:
        del self._entries[bisect_left(self._entries, _entry(node))]

    def remove_dead(self) -> None:
        self._entries = [entry for entry in self._entries if entry[2].state is not State.DEAD]


class TokenTree:
    """Decided tokens, and below the last of them, the `root`, the drafted ones.

    Nodes enter by `add`; `decide` moves the root to what the target says, and everything beside
    that path dies.
    """

    def __init__(self, prompt: Sequence[int], constraint: Constraint | None = None) -> None:
        """`constraint` says what may follow the prompt."""
        self.text = list(prompt)  # decided tokens, by position
        self.root = _decided(prompt[-1], len(prompt) - 1, parent=None)
        self.root.constraint = constraint
        self.n_drafted = 0  # nodes below the root
        self.version = 0  # grows with each change
        # of the drafted nodes
        self._open = _Ranking()
        self._unfed = _Ranking()
        self._n_added = 0

    @property
    def n_unfed(self) -> int:
        """Drafted nodes that were not submitted yet."""
        return len(self._unfed)

    def add(self, parent: Node, token: int, probability: float) -> Node:
        """A drafted token after `parent`, which the drafter gives this probability."""
        assert token not in parent.children and parent.state is not State.DEAD
        probability = max(probability, SMALLEST_PROBABILITY)
        node = Node(token, parent.position + 1, parent, parent.log_probability)
        node.number = self._n_added + 1
        node.log_probability += math.log(probability)
        node.constraint = _constraint_after(parent, token)
        parent.children[token] = node
        self.n_drafted += 1
        self.version += 1
        self._n_added += 1
        node.is_open = not node.is_end
        entry = _entry(node)
        if node.is_open:
            self._open.add(entry)
        self._unfed.add(entry)
        return node

    def add_forced(self, node: Node) -> Node | None:
        """The token that alone may follow an open node; None if that is not so."""
        if node.mask is None or (token := node.mask.only) is None or token in node.children:
            return None
        self.mark_asked(node)
        return self.add(node, token, 1.0)

    def best_open(self) -> Node | None:
        """The most probable node whose children the drafter has not been asked for."""
        nodes = self.open_nodes(1)
        return nodes[0] if nodes else None

    def open_nodes(self, n_most: int) -> list[Node]:
        """The most probable nodes whose children the drafter has not been asked for."""
        if self.root.is_open:
            return [self.root, *self._open.first(n_most - 1)]
        return self._open.first(n_most)

    def mark_asked(self, node: Node) -> None:
        """The drafter is asked for the children of this node, the root or a drafted one."""
        if node.is_open and node.state is State.DRAFTED:
            self._open.remove(node)
        node.is_open = False
        self.version += 1

    def reopen(self, node: Node) -> None:
        """The drafter, just asked, shall not answer."""
        if not node.is_open and node.state is State.DRAFTED:
            self._open.add(_entry(node))
        node.is_open = True
        self.version += 1

    def unfed_nodes(self, n_most: int) -> list[Node]:
        """The most probable drafted nodes that were not fed; parents come before children."""
        return self._unfed.first(n_most)

    def unfed_node(self, index: int) -> Node | None:
        """The one of this index among them; None: there are no more."""
        return self._unfed.at(index)

    def mark_fed(self, node: Node) -> None:
        """The node, the root or a drafted one, is submitted with a run."""
        if not node.is_fed and node.state is State.DRAFTED:
            self._unfed.remove(node)
        node.is_fed = True
        self.version += 1

    def decide(self) -> tuple[Verdict, list[Node]]:
        """Moves the root to the token that the target says follows it, which has to be known.

        Also says which nodes have died.
        """
        token = self.root.next_token
        assert token is not None
        old, child = self.root, self.root.children.pop(token, None)
        dead = [node for sibling in old.children.values() for node in _subtree(sibling)]
        self._kill(dead)
        if child is not None:
            self.n_drafted -= 1
            self._forget(child)
            verdict = Verdict.ACCEPTED if child.is_fed else Verdict.KNOWN
        else:
            verdict = Verdict.MISSED if dead else Verdict.BONUS
            child = _decided(token, old.position + 1, old)
            child.constraint = _constraint_after(old, token)
            child.is_open = not child.is_end
        child.state = State.DECIDED
        old.children = {token: child}
        old.parent = None  # the text before is not needed: let it go
        self.text.append(token)
        self.root = child
        self.version += 1
        return verdict, dead

    def drop_unfed(self) -> None:
        """Forgets what was drafted but not fed."""
        unfed = self._unfed.first(len(self._unfed))
        for node in unfed:
            assert node.parent is not None
            del node.parent.children[node.token]
        self._kill(unfed)

    def prune(self, keep: Collection[Node]) -> list[Node]:
        """Forgets all drafted nodes but these, which are a path from the root on.

        Returns those that have died.
        """
        dead: list[Node] = []
        for node in (self.root, *keep):
            for child in [each for each in node.children.values() if each not in keep]:
                del node.children[child.token]
                dead += _subtree(child)
        self._kill(dead)
        return dead

    def _kill(self, nodes: Sequence[Node]) -> None:
        is_few = len(nodes) * FEW < self.n_drafted
        for node in nodes if is_few else ():
            self._forget(node)
        for node in nodes:
            node.state = State.DEAD
        if not is_few:
            self._open.remove_dead()
            self._unfed.remove_dead()
        self.n_drafted -= len(nodes)
        self.version += 1

    def _forget(self, node: Node) -> None:
        """The drafted node is one no longer."""
        if node.is_open:
            self._open.remove(node)
        if not node.is_fed:
            self._unfed.remove(node)

    def forget_candidates(self) -> None:
        """Others than the drafter to come have named them."""
        for node in _subtree(self.root):
            node.candidates = ()

    def batch(self, nodes: Sequence[Node], epoch: int, n_candidates: int) -> DraftBatch:
        """The drafter shall say what follows these nodes, drafted ones or the root."""
        branches = tuple(self._branch(node) for node in nodes)
        is_free = self.root.constraint is None
        masks = () if is_free else tuple(node.mask for node in nodes)
        return DraftBatch(epoch, self.text, len(self.text), branches, n_candidates, masks=masks)

    def _branch(self, node: Node) -> Branch:
        """The tokens from the root's child to the node; () of the root.

        Where the drafter was asked for the node it is known of its parent, as of an older root.
        """
        n_tokens = node.position - self.root.position
        if n_tokens <= 1:
            return (node.token,) * n_tokens
        if len(node.branch) < n_tokens:
            assert node.parent is not None
            known = node.parent.branch
            if len(known) < n_tokens - 1:
                known = self._path(node.parent)
            node.branch = (*known[len(known) - n_tokens + 1 :], node.token)
        return node.branch[len(node.branch) - n_tokens :]

    def _path(self, node: Node) -> Branch:
        path = []
        while node is not self.root:
            assert node.parent is not None
            path.append(node.token)
            node = node.parent
        return tuple(reversed(path))


_Entry = tuple[float, int, Node]  # in order of probability; the number makes it unique


def _entry(node: Node) -> _Entry:
    return -node.log_probability, node.number, node


def _decided(token: int, position: int, parent: Node | None) -> Node:
    return Node(token, position, parent, log_probability=0.0, state=State.DECIDED)


def _constraint_after(parent: Node, token: int) -> Constraint | None:
    return None if parent.constraint is None else parent.constraint.after(token)


def _subtree(node: Node) -> Iterator[Node]:
    """The node and all below it, parents first."""
    todo = [node]
    while todo:
        each = todo.pop()
        yield each
        todo += each.children.values()
