"""A stage with recurrent layers: cells, and states that are kept as the C ABI promises."""

from itertools import groupby

from pipeinfer_cli.scheduler.runs import KvKind
from scripted import ScriptedCache


class ScriptedStates(ScriptedCache):
    """A state is the text that it has seen. What a run has left of a sequence is {position: state}.

    An operation for which no state is kept fails, as on a real stage.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.parts = {}  # by sequence, in the order of positions
        self.most_places = 0

    def apply(self, op):
        super().apply(op)
        if op.kind is KvKind.COPY:
            source = self.parts.get(op.seq_src, [])
            end = max((max(part) for part in source), default=-1)
            last = end if op.pos_last < 0 else min(end, op.pos_last - 1)
            kept = [part for part in source if last in part]
            assert kept or last < 0, f"no state after {last} to copy"
            assert op.pos_first == 0
            self.parts[op.seq_dst] = [up_to(part, last) for part in kept]
        elif op.kind is KvKind.REMOVE and op.seq_src < 0:
            self.parts.clear()
        elif op.kind is KvKind.REMOVE:
            self.take_back(op.seq_src, op.pos_first)

    def take_back(self, sequence, first):
        parts = self.parts.get(sequence, [])
        if first == 0:
            self.parts.pop(sequence, None)
        elif parts and first <= max(parts[-1]):
            parts = [up_to(part, first - 1) for part in parts if min(part) < first]
            assert parts and first - 1 in parts[-1], f"no state after {first - 1} to go back to"
            self.parts[sequence] = parts

    def decode(self, tokens):
        assert all(len(token.seq_ids) == 1 for token in tokens), "a token is in one chain"
        seen = super().decode(tokens)
        for sequence, own in groupby(tokens, key=lambda token: token.seq_ids[0]):
            self.grow(sequence, list(own))
        for token, text in zip(tokens, seen, strict=True):
            assert self.parts[token.seq_ids[0]][-1].get(token.position, text) == text
        places = {id(part.place) for parts in self.parts.values() for part in parts}
        self.most_places = max(self.most_places, len(places))
        return seen

    def grow(self, sequence, tokens):
        parts = self.parts.setdefault(sequence, [])
        state = parts[-1][max(parts[-1])] if parts else []
        part = Part()
        for token in tokens:
            assert token.position == len(state), "the state of another position"
            state = [*state, token.id]
            part[token.position] = state
        last = tokens[-1].position
        for position in [at for at in part if at <= last - self.config.n_tokens]:
            del part[position]
        self.parts[sequence] = [*parts[-self.config.n_runs :], part]


class Part(dict):
    """What a run has left of a sequence, {position: state}, and where: copies share the place."""

    def __init__(self, items=(), place=None):
        super().__init__(items)
        self.place = place or object()


def up_to(part, last):
    """What is left of it without the positions after `last`."""
    return Part({at: state for at, state in part.items() if at <= last}, part.place)
