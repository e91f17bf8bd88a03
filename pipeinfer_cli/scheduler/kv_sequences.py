"""Sequence ids of token trees: which cells of the KV caches a token may attend to.

A path of a tree is one sequence: all its tokens' cells carry its id. A node continues in its
parent's sequence if it is the first to do so; otherwise it begins a branch, whose id the cells
before it receive by a COPY; so does a prompt that begins like a text whose cells are still cached.
Stages apply operations and runs in the order of submission, so an id may be reused as soon as the
REMOVE of its last use has been submitted.

Cells are allocated after the last used one, so that a path's cells are in the order of their
positions; that keeps results bitwise equal to plain decoding. Dead branches, and requests that are
over, leave holes; a COMPACT closes them once there are enough.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeinfer_cli.scheduler.policy import MAX_DRAFT, DraftConfig
from pipeinfer_cli.scheduler.runs import KvKind, KvOp
from pipeinfer_cli.scheduler.token_tree import Node, State, TokenTree

N_SEQUENCES = 255  # of the engine, whose last one is that of tokens that fill up a run
N_BRANCHES_MAX = 160  # of a request at a time
MAX_PARALLEL = 64  # requests at a time; each finds a sequence id, however many branches there are
N_HOLES_MAX = 64  # cells
N_CACHED_MAX = 32  # texts that are over


class SequencePool:
    """The sequence ids of a pipeline, and the KV operations that have to travel with its next run.

    All requests of the pipeline share it. `has_states`: of recurrent layers, see StateConfig.
    """

    def __init__(self, *, has_states: bool = False) -> None:
        self.has_states = has_states
        self._operations: list[KvOp] = []
        self._free = list(range(N_SEQUENCES))  # a heap
        self._is_mixed = False  # cells of one sequence may lie behind those of another
        self._n_holes = 0  # at most this number of cells, before used ones, are free

    @property
    def n_used(self) -> int:
        """Sequence ids in use."""
        return N_SEQUENCES - len(self._free)

    @property
    def can_branch(self) -> bool:
        """True if there is an id for a branch, besides those that requests will need."""
        return len(self._free) > MAX_PARALLEL

    def take(self) -> int:
        """The lowest free id."""
        self._is_mixed |= self.n_used > 0
        return heapq.heappop(self._free)

    def give_back(self, sequence: int) -> None:
        """An id that nothing uses any more; its cells are removed."""
        self.remove(sequence, first=0)
        heapq.heappush(self._free, sequence)

    def copy(self, source: int, target: int, *, last: int) -> None:
        """The cells of `[0, last)` of a sequence become another's, too."""
        self._operations.append(
            KvOp(kind=KvKind.COPY, seq_src=source, seq_dst=target, pos_last=last)
        )

    def remove(self, sequence: int, *, first: int) -> None:
        """The cells from the position `first` on are no longer the sequence's."""
        self._operations.append(KvOp(kind=KvKind.REMOVE, seq_src=sequence, pos_first=first))

    def drop(self, cached: CachedPrefix | None) -> None:
        """A text's cells are not needed any more."""
        if cached is not None:
            self.give_back(cached.sequence)
            self.note_holes(len(cached.tokens))

    def note_holes(self, n_cells: int) -> None:
        """These cells are no longer used."""
        if self._is_mixed:
            self._n_holes += n_cells
        if self._n_holes >= N_HOLES_MAX:
            self._operations.append(KvOp(kind=KvKind.COMPACT))
            self._n_holes = 0

    def take_operations(self) -> tuple[KvOp, ...]:
        """The operations to apply before the next run, in this order."""
        operations, self._operations = tuple(self._operations), []
        return operations


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CachedPrefix:
    """A text whose cells are still there."""

    tokens: Sequence[int]
    sequence: int
    is_whole: bool = False  # only all of it is of use

    def n_common(self, prompt: Sequence[int]) -> int:
        """With how many of its tokens the prompt begins; its last token is always left to feed."""
        n_common = common_prefix(self.tokens, prompt[:-1])
        return 0 if self.is_whole and n_common < len(self.tokens) else n_common


class PrefixCache:
    """Texts that are over whose cells stay, the one that was of use last at the end.

    Together they have at most `n_cells` tokens; cells that two of them share count twice. One text
    stays whatever its length: cells for it are there.
    """

    def __init__(self, pool: SequencePool, n_cells: int) -> None:
        self._pool = pool
        self._n_cells = n_cells
        # Of a recurrent layer's states only the last one of a text is there, for one text.
        self._n_max = 1 if pool.has_states else N_CACHED_MAX
        self._texts: list[CachedPrefix] = []

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def texts(self) -> Sequence[CachedPrefix]:
        """What a prompt may begin with."""
        return self._texts

    @property
    def n_tokens(self) -> int:
        """Of all texts."""
        return sum(len(each.tokens) for each in self._texts)

    def add(self, text: CachedPrefix) -> None:
        """Keeps a text, instead of those that it begins with, and of the oldest ones."""
        for each in [each for each in self._texts if _begins_with(text, each)]:
            self._drop(each)
        self._texts.append(text)
        while len(self._texts) > 1 and not self._fits:
            self._drop(self._texts[0])

    def touch(self, text: CachedPrefix) -> None:
        """The text was of use: it stays longer than others. What is not kept here is ignored."""
        if text in self._texts:
            self._texts.remove(text)
            self._texts.append(text)

    def clear(self) -> None:
        """Drops all."""
        while self._texts:
            self._drop(self._texts[0])

    @property
    def _fits(self) -> bool:
        return len(self._texts) <= self._n_max and self.n_tokens <= self._n_cells

    def _drop(self, text: CachedPrefix) -> None:
        self._texts.remove(text)
        self._pool.drop(text)


def _begins_with(text: CachedPrefix, other: CachedPrefix) -> bool:
    n_tokens = len(other.tokens)
    return not text.is_whole and text.tokens[:n_tokens] == other.tokens


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """The length of the beginning that both share."""
    n_shortest = min(len(a), len(b))
    if list(a[:n_shortest]) == list(b[:n_shortest]):  # the usual case, at C's speed
        return n_shortest
    return next(i for i in range(n_shortest) if a[i] != b[i])


class Sequences:
    """The sequence ids of one request, at most `n_max`."""

    def __init__(self, pool: SequencePool, n_max: int = N_BRANCHES_MAX) -> None:
        self._pool = pool
        self._n_max = 1 if pool.has_states else n_max
        self.first = pool.take()  # of the prompt
        self._tips: dict[int, Node | None] = {self.first: None}  # each sequence's last node

    @property
    def n_used(self) -> int:
        """Sequence ids in use."""
        return len(self._tips)

    def begin_with(self, cached: CachedPrefix, n_tokens: int) -> None:
        """The prompt's first tokens are those of a text whose cells are still there."""
        self._pool.copy(cached.sequence, self.first, last=n_tokens)

    def feed(self, node: Node, run: dict[Node, list[int]]) -> bool:
        """Adds the node to a run, that holds the sequence ids of each of its nodes, own id first.

        False, and nothing is changed, if its parent was not fed or there is no id left for it.
        """
        assert not node.is_fed
        parent = node.parent
        if parent is None:
            node.sequence = self.first
        elif self._tips.get(parent.sequence) is parent:
            node.sequence = parent.sequence
        elif not parent.is_fed or self.n_used == self._n_max or not self._pool.can_branch:
            return False
        else:
            node.sequence = self._pool.take()
            self._branch(node.sequence, parent, run)
        run[node] = [node.sequence]
        self._tips[node.sequence] = node
        return True

    def _branch(self, sequence: int, parent: Node, run: dict[Node, list[int]]) -> None:
        """A new sequence: of cells that were there before the run, and of the run's own tokens."""
        source, last = parent.sequence, parent.position + 1
        ancestor: Node | None = parent
        while ancestor is not None and ancestor in run:
            run[ancestor].append(sequence)
            last = ancestor.position
            ancestor = ancestor.parent
        if last > 0:
            self._pool.copy(source, sequence, last=last)

    def release(self, root: Node, dead: Iterable[Node]) -> None:
        """The text has grown to `root`; these nodes beside it have died."""
        fed = [node for node in dead if node.is_fed]
        for sequence in sorted({node.sequence for node in fed}):
            self._trim(sequence, root)
        self._pool.note_holes(len(fed))

    def _trim(self, sequence: int, root: Node) -> None:
        """Removes the dead end of a sequence, or all of it if it leads nowhere."""
        node: Node | None = self._tips[sequence]
        first_dead: Node | None = None
        while node is not None and node.state is State.DEAD and node.sequence == sequence:
            first_dead, node = node, node.parent
        if node is not None and node.sequence == sequence and _leads_on(node, root):
            self._tips[sequence] = node
            if first_dead is not None:
                self._pool.remove(sequence, first=first_dead.position)
        else:
            del self._tips[sequence]
            self._pool.give_back(sequence)

    def of_text(self, root: Node) -> int:
        """The sequence that has the cells of all tokens before the last decided one, the root."""
        if root.is_fed:
            return root.sequence
        return self.first if root.parent is None else root.parent.sequence

    def close(self, tree: TokenTree, *, is_computed: bool = False) -> CachedPrefix | None:
        """The request is over: all ids go, but for one that keeps the cells of the text's tokens.

        What the last decided token, the root, has left is not kept: it may not have been computed
        everywhere. None, and no id stays, if nothing was decided after the prompt; with
        `is_computed`, what was submitted was also computed, and the prompt is kept then.
        """
        root = tree.root
        cached = None
        if root.parent is not None or (is_computed and root.position > 0):
            cached = CachedPrefix(
                tokens=tuple(tree.text[: root.position]),
                sequence=self.of_text(root),
                is_whole=self._pool.has_states,
            )
            self._pool.remove(cached.sequence, first=root.position)
        for each in sorted(self._tips):
            if cached is None or each != cached.sequence:
                self._pool.give_back(each)
        self._tips.clear()
        n_rest = len(tree.text) if cached is None else 1
        self._pool.note_holes(n_rest + tree.n_drafted - tree.n_unfed)
        return cached


def spare_cells(draft: DraftConfig | None, depth: int, *, n_texts: int = 1) -> int:
    """Cells that branches take, and holes between several texts, beyond those of the texts."""
    if draft is None or (draft.width == 1 and not draft.is_auto):
        n_branches = 0
    else:
        n_branches = (depth + 1) * (MAX_DRAFT if draft.is_auto else draft.n_max)
    return n_branches + (N_HOLES_MAX if n_branches or n_texts > 1 else 0)


def _leads_on(node: Node, root: Node) -> bool:
    """True if the text or a draft continues after this node, in its sequence."""
    last_fed = root if root.is_fed else root.parent
    return node is last_fed or node.state is State.DRAFTED
