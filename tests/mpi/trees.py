"""Random token trees against plain decoding: branches, promotions, cancels, compaction.

Request: model, n_layer, n_vocab, n_ctx, layers (per rank), seed, n_rounds, and maybe
first_position: where texts begin (0). Each token's row, and the logits of the last row of a round
with one run, must be those of its path decoded alone, one token at a time, by an engine of one
stage. Prints what happened, and the positions left per rank.
"""

import hashlib
import time

from placed import PlacedEngine
from random_tree import RandomTree
from ranks import N_BATCH, REMOVE_ALL, call, main, open_alone, open_engine, wait

from pipeinfer_cli.scheduler.runs import KvKind, KvOp, Run, RunStatus, RunToken

COUNTED = ("completed", "cancelled", "aborted", "compactions", "shared")


class Walk:
    def __init__(self, engine, request, logits_of_last):
        self.engine = engine
        self.logits_of_last = logits_of_last
        self.tree = RandomTree(
            request["seed"],
            n_vocab=request["n_vocab"],
            n_batch=N_BATCH,
            n_cells=request["n_ctx"],
        )
        self.random = self.tree.random
        self.rows = {}  # by path
        self.logits = {}  # by path
        self.counts = dict.fromkeys(COUNTED, 0)

    def round(self):
        """One run alone, for its logits; or several in flight, of which the last may be cancelled.

        A cancelled run takes all after it with it.
        """
        steps = []
        is_alone = self.random.random() < 0.5
        for _ in range(1 if is_alone else self.random.randint(2, 5)):
            steps.append(self.tree.make_step())
            self.engine.submit(steps[-1].run)
        cancelled_from = None
        if not is_alone and self.random.random() < 0.6:
            time.sleep(self.random.choice([0, 0.001, 0.003, 0.01]))
            cancelled_from = self.random.choice(steps).run.run_id
            self.engine.cancel(cancelled_from, steps[-1].run.run_id)
        for step in steps:
            self.take(step, wait(self.engine))
        self.tree.settle(steps, cancelled_from)
        if is_alone and steps[0].wanted:
            self.logits[steps[0].wanted[-1].path()] = self.logits_of_last()

    def take(self, step, result):
        assert result.run_id == step.run.run_id
        self.counts["cancelled"] += result.status is RunStatus.CANCELLED
        self.counts["aborted"] += any(part.status is RunStatus.ABORTED for part in result.times)
        self.counts["compactions"] += sum(op.kind is KvKind.COMPACT for op in step.run.kv_ops)
        if result.status is RunStatus.COMPLETED:
            self.counts["completed"] += 1
            self.counts["shared"] += any(len(token.seq_ids) > 1 for token in step.run.tokens)
            for node, row in zip(step.wanted, result.rows, strict=True):
                self.rows[node.path()] = row

    def check(self, plain, n_vocab):
        """Decodes all paths plainly, those with the same beginning one after the other."""
        fed, run_id = (), 0
        for path in sorted({*self.rows, *self.logits}):
            n_shared = next(
                (i for i, (a, b) in enumerate(zip(fed, path, strict=False)) if a != b),
                min(len(fed), len(path)),
            )
            n_shared = min(n_shared, len(path) - 1)  # the last token again, for its logits
            ops = (KvOp(kind=KvKind.REMOVE, seq_src=0, pos_first=n_shared),)
            for position in range(n_shared, len(path)):
                token = RunToken(id=path[position], position=position, want=True)
                run_id += 1
                row = call(plain, Run(run_id=run_id, tokens=(token,), kv_ops=ops)).rows[0]
                ops = ()
            fed = path
            if path in self.logits:
                assert self.logits[path] == digest(plain.last_logits(n_vocab)), path
            assert self.rows.get(path, row) == row, path


def digest(logits):
    return hashlib.sha256(logits.tobytes()).hexdigest()


def ask(comm, engine, n_vocab, question=None):
    """Rank 0 asks, the others hear: what to do beside serving, for MPI serves two threads.

    Returns the question, and on rank 0 what each rank says.
    """
    question = comm.bcast(question)
    answer = None
    if question == "positions":
        answer = engine.kv_positions()
    elif question == "logits":
        logits = engine.last_logits(n_vocab)
        answer = None if logits is None else digest(logits)
    return question, comm.gather(answer)


def body(comm, request):
    n_vocab, start = request["n_vocab"], request.get("first_position", 0)
    with open_engine(comm, request) as opened:
        engine = PlacedEngine(opened, start)
        if comm.rank > 0:
            while ask(comm, engine, n_vocab)[0] != "end":
                pass
            return None
        walk = Walk(engine, request, lambda: ask(comm, engine, n_vocab, "logits")[1][-1])
        for _ in range(request["n_rounds"]):
            walk.round()
        call(engine, walk.tree.make_last())
        held = walk.tree.caches.n_positions()
        assert set(ask(comm, engine, n_vocab, "positions")[1]) - {-1} == {held}
        call(engine, Run(run_id=next(walk.tree.run_ids), kv_ops=(REMOVE_ALL,)))
        positions = ask(comm, engine, n_vocab, "positions")[1]
        ask(comm, engine, n_vocab, "end")
    with open_alone(request) as plain:
        walk.check(PlacedEngine(plain, start), n_vocab)
    return {
        **walk.counts,
        "positions": positions,
        "rows": len(walk.rows),
        "logits": len(walk.logits),
    }


if __name__ == "__main__":
    main(body)
