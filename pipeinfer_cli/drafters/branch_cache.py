"""What a draft model has computed of a text and of branches after it, and what to feed it next.

To its draft model the head is what it is to the stages: it keeps a token tree, and the sequence ids
of its paths; runs feed what is new, with the KV operations that make room for it. A token of the
tree is fed once, however many branches go through it. The text's own tokens are decided ones: where
it grows along a branch, that branch's cells become the text's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pipeinfer_cli.scheduler.interfaces import Branch, Candidate, DraftBatch
from pipeinfer_cli.scheduler.kv_sequences import (
    N_HOLES_MAX,
    N_SEQUENCES,
    SequencePool,
    Sequences,
)
from pipeinfer_cli.scheduler.policy import N_BATCH
from pipeinfer_cli.scheduler.runs import Mask, Run, RunToken
from pipeinfer_cli.scheduler.token_tree import Node, TokenTree

Row = Sequence[Candidate]  # what may follow a token, the best first
N_BRANCH_CELLS = 256  # for branches; to make room, those that are not asked for are forgotten


def n_cells(n_ctx: int) -> int:
    """Cells for a text of `n_ctx` tokens, its branches, the holes among them, and a run."""
    return n_ctx + N_BRANCH_CELLS + N_HOLES_MAX + N_BATCH


class _Unwanted(Exception):  # noqa: N818 (it is none)
    """The batch is not wanted any more."""


@dataclass(slots=True)
class _Part:
    """A run in the making."""

    nodes: dict[Node, list[int]] = field(default_factory=dict)  # with their sequence ids
    again: dict[Node, int] = field(default_factory=dict)  # nodes fed before, with another id
    asked: dict[Node, Branch] = field(default_factory=dict)  # those that want rows

    @property
    def n_tokens(self) -> int:
        return len(self.nodes) + len(self.again)


@dataclass(frozen=True, slots=True)
class _Work:
    """A batch at work."""

    is_wanted: Callable[[], bool]
    asked: dict[Branch, Mask | None]  # with what may follow
    found: dict[Branch, Row] = field(default_factory=dict)
    part: _Part = field(default_factory=_Part)


class BranchCache:
    """Expands branches by as few runs of at most N_BATCH tokens as it takes.

    `decode` computes a run, and has a row for each of its tokens that wants one. Texts have less
    than `n_ctx` tokens, branches included; nothing is known of what follows longer ones.
    """

    _sequences: Sequences  # of the tree, if there is one

    def __init__(self, decode: Callable[[Run], list[Row]], *, n_ctx: int) -> None:
        self._decode = decode
        self._n_ctx = n_ctx
        self.forget()

    def forget(self) -> None:
        """The next text has nothing in common with those before."""
        self._pool = SequencePool()
        self._pool.remove(-1, first=0)
        self._source: Sequence[int] = ()  # the caller's text, which may have grown
        self._tree: TokenTree | None = None
        self._rows: dict[Node, Row] = {}  # of the root and drafted nodes, where they are known

    def expand(self, batch: DraftBatch, is_wanted: Callable[[], bool]) -> list[Row] | None:
        """See BatchDrafter. `is_wanted` is asked before each run but the first.

        If it says no, what has been computed until then stays of use.
        """
        n_max = self._n_ctx - 1 - batch.n_text  # tokens of a branch
        masks = batch.masks or (None,) * len(batch.branches)
        each = zip(batch.branches, masks, strict=True)
        asked = {branch: mask for branch, mask in each if len(branch) <= n_max}
        work = _Work(is_wanted, asked)
        if asked:
            try:
                tree = self._follow(batch, work)
                for branch in asked:
                    self._ask(tree, branch, work)
                self._flush(work)
            except _Unwanted:
                return None
        return [work.found.get(branch, ())[: batch.n_candidates] for branch in batch.branches]

    def _follow(self, batch: DraftBatch, work: _Work) -> TokenTree:
        """The tree, whose root is the last token of the text."""
        tree = self._tree
        if tree is None or batch.text is not self._source or batch.n_text < len(tree.text):
            tree = self._begin(batch.text, batch.n_text)
        for token in batch.text[len(tree.text) : batch.n_text]:
            if not tree.root.is_fed:
                self._feed(tree, tree.root, work)
            old, parent = tree.root, tree.root.parent
            self._rows.pop(old, None)
            old.next_token = token
            decided = tree.decide()
            assert decided is not None
            if parent in work.part.nodes:  # a branch that begins in this run has its cells, too
                old.parent = parent
            self._release(tree, decided[1])
        return tree

    def _begin(self, text: Sequence[int], n_text: int) -> TokenTree:
        """Another text, or a shorter one. What it shares with the one before is not fed again."""
        beginning = text[:n_text]
        cached = None
        if self._tree is not None:
            cached = self._sequences.close(self._tree, is_computed=True)
        n_cached = cached.n_common(beginning) if cached else 0
        self._sequences = Sequences(self._pool, N_SEQUENCES)
        if cached and n_cached:
            self._sequences.begin_with(cached, n_cached)
        self._pool.drop(cached)
        self._rows.clear()
        self._source, self._tree = text, TokenTree(beginning[: n_cached + 1])
        return self._tree

    def _ask(self, tree: TokenTree, branch: Branch, work: _Work) -> None:
        """Feeds what it takes to know what may follow the branch, unless that is known."""
        path = [tree.root]
        for token in branch:
            child = path[-1].children.get(token)
            path.append(child if child is not None else tree.add(path[-1], token, 1.0))
        node = path[-1]
        if (row := self._rows.get(node)) is not None:
            work.found[branch] = row
        elif node.is_fed and node not in work.part.nodes:
            self._feed_again(tree, path, work)
            work.part.asked[node] = branch
        else:
            for depth, each in enumerate(path):
                if not each.is_fed:
                    self._feed(tree, each, work, path)
                if each in work.part.nodes and branch[:depth] in work.asked:
                    work.part.asked[each] = branch[:depth]

    def _feed(self, tree: TokenTree, node: Node, work: _Work, path: Sequence[Node] = ()) -> None:
        """Adds the node, the next one of this path, to the run in the making."""
        self._make_room(tree, path, work)
        if not self._sequences.feed(node, work.part.nodes):  # there is no id left
            self._forget_others(tree, path, work)
            is_fed = self._sequences.feed(node, work.part.nodes)
            assert is_fed, "a path alone needs a single id"
        tree.mark_fed(node)

    def _feed_again(self, tree: TokenTree, path: Sequence[Node], work: _Work) -> None:
        """The path's last node was fed when nobody asked what follows: once more, for the row.

        Its cell stays, as those of the nodes after it must come later; it gets another one beside.
        """
        self._make_room(tree, path, work)
        if not self._pool.can_branch:
            self._forget_others(tree, path, work)
        node, sequence = path[-1], self._pool.take()
        if node.position > 0:
            self._pool.copy(node.sequence, sequence, last=node.position)
        work.part.again[node] = sequence

    def _make_room(self, tree: TokenTree, path: Sequence[Node], work: _Work) -> None:
        """For one more token: in the cells, and in the run."""
        if tree.n_drafted - tree.n_unfed >= N_BRANCH_CELLS + len(path):
            self._forget_others(tree, path, work)
        elif work.part.n_tokens == N_BATCH:
            self._end_part(work)

    def _forget_others(self, tree: TokenTree, path: Sequence[Node], work: _Work) -> None:
        """Forgets all branches but this path."""
        self._end_part(work)
        self._release(tree, tree.prune(frozenset(path)))

    def _release(self, tree: TokenTree, dead: Sequence[Node]) -> None:
        for node in dead:
            self._rows.pop(node, None)
        self._sequences.release(tree.root, dead)

    def _end_part(self, work: _Work) -> None:
        """Computes the run in the making; there is more to come."""
        self._flush(work)
        if not work.is_wanted():
            raise _Unwanted

    def _flush(self, work: _Work) -> None:
        """Computes the run in the making, if it has tokens."""
        part = work.part
        if not part.n_tokens:
            return
        ids_of = [*part.nodes.items(), *((node, [each]) for node, each in part.again.items())]
        tokens = tuple(
            RunToken(
                id=node.token,
                position=node.position,
                seq_ids=tuple(ids),
                want=node in part.asked,
                mask=work.asked[part.asked[node]] if node in part.asked else None,
            )
            for node, ids in ids_of
        )
        rows = self._decode(Run(run_id=1, tokens=tokens, kv_ops=self._pool.take_operations()))
        asked = [node for node, _ in ids_of if node in part.asked]
        for node, row in zip(asked, rows, strict=True):
            self._rows[node] = work.found[part.asked[node]] = row
        for sequence in part.again.values():
            self._pool.give_back(sequence)
        self._pool.note_holes(len(part.again))
        part.nodes.clear()
        part.again.clear()
        part.asked.clear()
