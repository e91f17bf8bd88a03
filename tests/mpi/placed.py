"""An engine whose texts begin later than at position 0, for what depends on the position."""

from dataclasses import replace


class PlacedEngine:
    """The engine, to which runs count positions from 0: it gets them from `start` on."""

    def __init__(self, engine, start):
        self._engine, self._start = engine, start

    def submit(self, run):
        tokens = [replace(each, position=self._start + each.position) for each in run.tokens]
        kv_ops = [
            replace(
                op,
                pos_first=op.pos_first and self._start + op.pos_first,
                pos_last=op.pos_last if op.pos_last == -1 else self._start + op.pos_last,
            )
            for op in run.kv_ops
        ]
        self._engine.submit(replace(run, tokens=tuple(tokens), kv_ops=tuple(kv_ops)))

    def __getattr__(self, name):
        return getattr(self._engine, name)
