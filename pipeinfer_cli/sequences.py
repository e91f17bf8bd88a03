"""Sequence ids of the token tree: which cells of the stages' KV caches a token may look at.

A path of the tree is one sequence: all its tokens' cells carry its id. A node goes on in its
parent's sequence if it is the first to do so; otherwise it begins a branch, whose id the cells
before it receive by a COPY. Stages apply operations and runs in the order of submission, so that
an id may be given away again as soon as the REMOVE of its last use is on its way.

Cells are allocated after the last used one, so that a path's cells are in the order of their
positions; that keeps results bitwise equal to plain decoding. Dead branches leave holes; a COMPACT
closes them once there are enough.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from pipeinfer_cli.policy import DraftConfig
from pipeinfer_cli.runs import KvKind, KvOp
from pipeinfer_cli.tree import Node, State

N_SEQUENCES = 64  # of the engine's 256: more branches than that are not worth their cells
N_HOLES_MAX = 64  # cells


class Sequences:
    """Gives out sequence ids, and the KV operations that have to travel with the next run."""

    def __init__(self) -> None:
        # First of all, what an earlier request has left behind goes.
        self._operations = [KvOp(kind=KvKind.REMOVE, seq_src=-1)]
        self._free = list(range(N_SEQUENCES))  # a heap
        self._tips: dict[int, Node] = {}  # the last node of each sequence in use
        self._has_branched = False
        self._n_holes = 0  # at most so many cells, before used ones, are free

    @property
    def n_used(self) -> int:
        """Sequence ids in use."""
        return len(self._tips)

    def take_operations(self) -> tuple[KvOp, ...]:
        """The operations to apply before the next run, in this order."""
        operations, self._operations = tuple(self._operations), []
        return operations

    def feed(self, node: Node, run: dict[Node, list[int]]) -> bool:
        """Adds the node to a run, that holds the sequence ids of each of its nodes, own id first.

        False, and nothing is changed, if its parent was not fed or there is no id left for it.
        """
        assert not node.is_fed
        parent = node.parent
        if parent is not None and self._tips.get(parent.sequence) is parent:
            node.sequence = parent.sequence
        elif (parent is not None and not parent.is_fed) or not self._free:
            return False
        else:
            node.sequence = heapq.heappop(self._free)
            if parent is not None:
                self._branch(node.sequence, parent, run)
        run[node] = [node.sequence]
        self._tips[node.sequence] = node
        return True

    def _branch(self, sequence: int, parent: Node, run: dict[Node, list[int]]) -> None:
        """A new sequence: of cells that were there before the run, and of the run's own tokens."""
        self._has_branched = True
        source, last = parent.sequence, parent.position + 1
        ancestor: Node | None = parent
        while ancestor is not None and ancestor in run:
            run[ancestor].append(sequence)
            last = ancestor.position
            ancestor = ancestor.parent
        if last > 0:
            self._operations.append(
                KvOp(kind=KvKind.COPY, seq_src=source, seq_dst=sequence, pos_last=last)
            )

    def release(self, root: Node, dead: Iterable[Node]) -> None:
        """The text has grown to `root`; these nodes beside it have died."""
        fed = [node for node in dead if node.is_fed]
        for sequence in sorted({node.sequence for node in fed}):
            self._trim(sequence, root)
        if self._has_branched:
            self._n_holes += len(fed)
        if self._n_holes >= N_HOLES_MAX:
            self._operations.append(KvOp(kind=KvKind.COMPACT))
            self._n_holes = 0

    def _trim(self, sequence: int, root: Node) -> None:
        """Removes the dead end of a sequence, or all of it if it leads nowhere."""
        node: Node | None = self._tips[sequence]
        first_dead: Node | None = None
        while node is not None and node.state is State.DEAD and node.sequence == sequence:
            first_dead, node = node, node.parent
        if node is not None and node.sequence == sequence and _leads_on(node, root):
            self._tips[sequence] = node
            first = 0 if first_dead is None else first_dead.position
        else:
            del self._tips[sequence]
            heapq.heappush(self._free, sequence)
            first = 0
        if first_dead is not None or sequence not in self._tips:
            self._operations.append(KvOp(kind=KvKind.REMOVE, seq_src=sequence, pos_first=first))


def spare_cells(draft: DraftConfig, depth: int) -> int:
    """Cells that the branches of a request take, beyond those of its text."""
    return 0 if draft.width == 1 else N_HOLES_MAX + (depth + 1) * draft.n_max


def _leads_on(node: Node, root: Node) -> bool:
    """True if the text or a draft goes on after this node, in its sequence."""
    last_fed = root if root.is_fed else root.parent
    return node is last_fed or node.state is State.DRAFTED
