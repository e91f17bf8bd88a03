"""An adversary: runs in flight, right and wrong ones, are cancelled at random moments.

Request: model, n_ctx, layer_split, truth ([ids]: a prompt and what greedy decoding makes of it),
n_known (of its tokens: the prompt's), seed, n_rounds, maybe n_vocab. Prints what happened, the
cells left on each rank, and by how many bytes rank 0 has grown since the first quarter of the
rounds.
"""

import itertools
import random
import time

from ranks import N_BATCH, REMOVE_ALL, call, main, open_engine, wait

from pipeinfer_cli.launch.environment import resident_bytes
from pipeinfer_cli.scheduler.runs import KvKind, KvOp, Run, RunStatus, RunToken


class Adversary:
    def __init__(self, engine, request):
        self.engine = engine
        self.truth = request["truth"]
        self.random = random.Random(request["seed"])
        self.run_ids = itertools.count(1)
        self.n_right = 0  # tokens whose cells are in the caches, all of them right
        self.counts = {"completed": 0, "cancelled": 0, "aborted": 0, "checked_rows": 0}
        self.n_known = request["n_known"]
        self.wrong = range(1000, 40000) if "n_vocab" not in request else range(request["n_vocab"])
        self.advance(self.n_known)

    def make_run(self, start, tokens, kv_ops=()):
        chain = tuple(
            RunToken(id=token, position=start + i, want=True) for i, token in enumerate(tokens)
        )
        return Run(run_id=next(self.run_ids), tokens=chain, kv_ops=kv_ops)

    def forget_the_rest(self):
        return (KvOp(kind=KvKind.REMOVE, seq_src=0, pos_first=self.n_right),)

    def check(self, run, result):
        for token, row in zip(run.tokens, result.rows, strict=True):
            following = token.position + 1
            if self.n_known <= following < len(self.truth):
                assert row == self.truth[following], (run, result)
                self.counts["checked_rows"] += 1

    def advance(self, n_tokens):
        """Right tokens, not cancelled: the results must be the truth."""
        while n_tokens > 0:
            take = min(n_tokens, N_BATCH)
            tokens = self.truth[self.n_right : self.n_right + take]
            run = self.make_run(self.n_right, tokens, self.forget_the_rest())
            result = call(self.engine, run)
            assert result.status is RunStatus.COMPLETED
            self.check(run, result)
            self.n_right += take
            n_tokens -= take

    def disturb(self):
        """Several runs in flight, some cancelled: each answered once, the untouched ones right."""
        runs, position, right_until = [], self.n_right, None
        for index in range(self.random.randint(1, 5)):
            size = self.random.choice([1, 1, 2, 4, N_BATCH])
            tokens = self.truth[position : position + size]
            if self.random.random() < 0.5 or len(tokens) < size:
                tokens = [self.random.choice(self.wrong) for _ in range(size)]
                right_until = index if right_until is None else right_until
            ops = self.forget_the_rest() if index == 0 else ()
            runs.append(self.make_run(position, tokens, ops))
            self.engine.submit(runs[-1])
            position += size
        time.sleep(self.random.choice([0, 0.001, 0.004, 0.02]))
        first = self.random.choice(runs).run_id
        last = runs[-1].run_id  # with all that rest on it
        self.engine.cancel(first, last)
        intact = True
        for index, run in enumerate(runs):
            result = wait(self.engine)
            assert result.run_id == run.run_id
            if result.status is RunStatus.CANCELLED:
                assert first <= run.run_id <= last and not result.rows
                self.count_cancelled(result)
                intact = False
            else:
                self.counts["completed"] += 1
                if intact and (right_until is None or index < right_until):
                    self.check(run, result)

    def count_cancelled(self, result):
        self.counts["cancelled"] += 1
        self.counts["aborted"] += any(part.status is RunStatus.ABORTED for part in result.times)


def body(comm, request):
    counts, resident = None, 0
    with open_engine(comm, request) as engine:
        if comm.rank == 0:
            adversary = Adversary(engine, request)
            for index in range(request["n_rounds"]):
                if index == request["n_rounds"] // 4:
                    resident = resident_bytes()
                adversary.disturb()
                if adversary.random.random() < 0.3 and adversary.n_right < len(adversary.truth) - 8:
                    adversary.advance(adversary.random.randint(1, 3))
            adversary.advance(len(adversary.truth) - adversary.n_right)
            call(engine, Run(run_id=next(adversary.run_ids), kv_ops=(REMOVE_ALL,)))
            counts = {**adversary.counts, "grown": resident_bytes() - resident}
        comm.Barrier()
        cells = comm.gather(engine.kv_positions())
        comm.Barrier()
    return {**(counts or {}), "cells": cells}


if __name__ == "__main__":
    main(body)
