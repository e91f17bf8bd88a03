"""Runs of random token trees, and which tokens each sequence of the KV caches then has.

Knows nothing of llama.cpp: a tree of nodes, and lists of them by sequence id. Everything is drawn
from one seed. Sequence 0 plays the trunk; it is never without tokens once it has some.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

from pipeinfer_cli.scheduler.runs import KvKind, KvOp, Run, RunToken

N_SEQ = 255  # the last one is not a run's where runs have one shape
N_SEQ_LIVE = 10  # most sequences at a time, of all ids
N_POSITIONS = 100
COMPACT = KvOp(kind=KvKind.COMPACT)


@dataclass(frozen=True, eq=False)
class Node:
    """A token after those of its parents; a cell of the cache is one node's."""

    token: int
    parent: Node | None

    def path(self) -> tuple[int, ...]:
        """The tokens from position 0 to this one."""
        tokens = []
        node: Node | None = self
        while node is not None:
            tokens.append(node.token)
            node = node.parent
        return tuple(reversed(tokens))


@dataclass(frozen=True)
class Step:
    """A run, and the nodes of its tokens."""

    run: Run
    nodes: tuple[Node, ...]

    @property
    def wanted(self) -> list[Node]:
        return [node for node, token in zip(self.nodes, self.run.tokens, strict=True) if token.want]


class Caches:
    """By sequence id, the nodes whose cells it has; and from where on that is not known."""

    def __init__(self) -> None:
        self.seqs: dict[int, list[Node]] = {}
        self.doubtful: set[int] = set()  # sequences that a cancelled run may have left longer

    def copy(self) -> Caches:
        other = Caches()
        other.seqs = {seq: list(nodes) for seq, nodes in self.seqs.items()}
        other.doubtful = set(self.doubtful)
        return other

    def apply(self, op: KvOp) -> None:
        last = None if op.pos_last == -1 else op.pos_last
        if op.kind is KvKind.COPY:
            source = self.seqs.get(op.seq_src, [])
            target = self.seqs.setdefault(op.seq_dst, [])
            if len(target) == op.pos_first:  # else what stands before is in doubt, and what follows
                target += source[op.pos_first : last]
            if op.seq_src in self.doubtful and (last is None or last > len(source)):
                self.doubtful.add(op.seq_dst)
        elif op.kind is KvKind.REMOVE:
            assert last is None
            nodes = self.seqs.get(op.seq_src, [])
            if op.pos_first <= len(nodes):
                del nodes[op.pos_first :]
                self.doubtful.discard(op.seq_src)
            if op.pos_first == 0:
                self.seqs.pop(op.seq_src, None)

    def n_cells(self) -> int:
        return len({id(node) for nodes in self.seqs.values() for node in nodes})

    def n_positions(self) -> int:
        return sum(len(nodes) for nodes in self.seqs.values())


class RandomTree:
    """Makes runs, one after the other; told which were cancelled, it goes on from the others."""

    def __init__(self, seed: int, *, n_vocab: int, n_batch: int, n_cells: int) -> None:
        self.random = random.Random(seed)
        self.n_vocab, self.n_batch, self.n_cells = n_vocab, n_batch, n_cells
        self.caches = Caches()
        self.run_ids = itertools.count(1)
        self._ops: list[KvOp] = []  # for the next run
        self._before: dict[int, Caches] = {}  # by run id, since the last settle()

    def make_step(self) -> Step:
        """The next run: KV operations of all kinds, then tokens of one or several branches."""
        self._before[run_id := next(self.run_ids)] = self.caches.copy()
        if self.caches.seqs:
            for change in self.random.choices(CHANGES, k=self.random.choice([0, 0, 1, 1, 2, 3])):
                change(self)
        self._make_room()
        ops, self._ops = tuple(self._ops), []
        nodes, tokens = self._grow() if self.random.random() < 0.95 else ((), ())
        return Step(Run(run_id=run_id, tokens=tokens, kv_ops=ops), nodes)

    def settle(self, steps: list[Step], cancelled_from: int | None) -> None:
        """All runs made so far have their results; those from `cancelled_from` on are given up.

        Their KV operations were applied; what they left of their tokens goes with the next run.
        """
        given_up = [step for step in steps if step.run.run_id >= (cancelled_from or 1 << 60)]
        if given_up:
            self.caches = self._before[given_up[0].run.run_id]
        for step in given_up:
            for op in step.run.kv_ops:
                self.caches.apply(op)
            for token in step.run.tokens:
                self.caches.doubtful.update(token.seq_ids)
        for seq in sorted(self.caches.doubtful):
            known = len(self.caches.seqs.get(seq, []))
            self._do(KvOp(kind=KvKind.REMOVE, seq_src=seq, pos_first=known))
        self._before.clear()

    def make_last(self) -> Run:
        """A run without tokens, with the KV operations that are still to be applied."""
        ops, self._ops = tuple(self._ops), []
        return Run(run_id=next(self.run_ids), kv_ops=ops)

    # KV operations

    def _do(self, op: KvOp) -> None:
        self._ops.append(op)
        self.caches.apply(op)

    def _free_seq(self) -> int:
        return self.random.choice([seq for seq in range(1, N_SEQ) if seq not in self.caches.seqs])

    def _fork(self) -> None:
        """A new sequence that shares the beginning of another one, or all of it."""
        if len(self.caches.seqs) >= N_SEQ_LIVE:
            return
        source = self.random.choice(list(self.caches.seqs))
        n = len(self.caches.seqs[source])
        last = n if self.random.random() < 0.5 else self.random.randint(1, n)
        op = KvOp(kind=KvKind.COPY, seq_src=source, seq_dst=self._free_seq(), pos_last=last)
        self._do(op)

    def _cut(self) -> None:
        """The end of a sequence goes."""
        seq = self.random.choice(list(self.caches.seqs))
        n = len(self.caches.seqs[seq])
        self._remove(seq, self.random.randint(max(1, n - 6), n))

    def _drop(self) -> None:
        """A branch goes."""
        branches = [seq for seq in self.caches.seqs if seq != 0]
        if branches:
            self._remove(self.random.choice(branches), 0)

    def _promote(self) -> None:
        """A branch becomes the trunk, and most others go."""
        branches = [seq for seq in self.caches.seqs if seq != 0]
        if not branches:
            return
        seq = self.random.choice(branches)
        pairs = zip(self.caches.seqs[0], self.caches.seqs[seq], strict=False)
        n_shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] is pair[1], pairs))
        self._remove(0, n_shared)
        self._do(KvOp(kind=KvKind.COPY, seq_src=seq, seq_dst=0, pos_first=n_shared))
        for other in branches:
            if other == seq or self.random.random() < 0.8:
                self._remove(other, 0)

    def _remove(self, seq: int, first: int) -> None:
        self._do(KvOp(kind=KvKind.REMOVE, seq_src=seq, pos_first=first))

    def _compact(self) -> None:
        self._do(COMPACT)

    def _make_room(self) -> None:
        """There are cells and positions for a whole run, whatever happened before."""
        while self.caches.n_cells() > self.n_cells - self.n_batch:
            self._drop()
            self._cut()
        for seq, nodes in list(self.caches.seqs.items()):
            if len(nodes) > N_POSITIONS:
                self._remove(seq, N_POSITIONS // 2)

    # tokens

    def _grow(self) -> tuple[tuple[Node, ...], tuple[RunToken, ...]]:
        n_tokens = self.random.choice([1, 1, 2, 3, 5, 8, self.n_batch])
        if not self.caches.seqs:
            self.caches.seqs[0] = []
        growing = self._pick_growing()
        nodes, tokens = [], []
        for _ in range(n_tokens):
            index = self.random.randrange(len(growing))
            if len(growing[index]) > 1 and self.random.random() < 0.3:  # they part here
                growing += [[seq] for seq in growing.pop(index)]
                continue
            seqs = growing[index]
            position = len(self.caches.seqs[seqs[0]])
            parent = self.caches.seqs[seqs[0]][-1] if position else None
            node = Node(self.random.randrange(self.n_vocab), parent)
            for seq in seqs:
                self.caches.seqs[seq].append(node)
            nodes.append(node)
            tokens.append(
                RunToken(
                    id=node.token,
                    position=position,
                    seq_ids=tuple(seqs),
                    want=self.random.random() < 0.8,
                )
            )
        return tuple(nodes), tuple(tokens)

    def _pick_growing(self) -> list[list[int]]:
        """Sequences, in groups of equal ones: a token may be of all in its group."""
        alike: dict[int, list[int]] = {}
        for seq, nodes in self.caches.seqs.items():
            alike.setdefault(id(nodes[-1]) if nodes else 0, []).append(seq)
        groups = self.random.sample(
            list(alike.values()), self.random.randint(1, min(4, len(alike)))
        )
        for group in groups:
            self.random.shuffle(group)
        return groups


CHANGES = [
    RandomTree._fork,
    RandomTree._fork,
    RandomTree._fork,
    RandomTree._cut,
    RandomTree._drop,
    RandomTree._promote,
    RandomTree._compact,
]
