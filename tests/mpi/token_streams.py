"""Several prompts at a time through one pipeline.

Request: model, n_ctx, n_cells, layer_split, n_parallel, and cases: strategy, maybe is_fixed (else
what to draft is chosen by expected gain), and items, each with prompt ([ids]), n_predict and maybe
sample. Drafts with n-grams. Prints per case the token ids of the items, and what happened.
"""

from itertools import count

from ranks import N_BATCH, WAIT_S, main, on_head

from pipeinfer_cli.drafters.ngram import NgramDrafter
from pipeinfer_cli.runtime.text.token_streams import TokenStreams
from pipeinfer_cli.scheduler.auto import AutoSpeculation
from pipeinfer_cli.scheduler.batcher import Batcher
from pipeinfer_cli.scheduler.kv_sequences import SequencePool
from pipeinfer_cli.scheduler.policy import DEFAULT_DRAFT, DraftConfig, Policy
from pipeinfer_cli.scheduler.runs import Run, SampleParams
from pipeinfer_cli.scheduler.scheduler import Knowledge, Scheduler


class Counted:
    """The engine; counts tokens and runs."""

    def __init__(self, engine):
        self.engine, self.n_runs, self.n_tokens = engine, 0, 0

    def submit(self, run):
        self.n_runs += 1
        self.n_tokens += len(run.tokens)
        self.engine.submit(run)

    def cancel(self, run_first, run_last):
        self.engine.cancel(run_first, run_last)

    def wait(self, timeout_s):
        return self.engine.wait(timeout_s)


def play(engine, run_ids, n_stages, case, n_parallel):
    pipeline, pool = Counted(engine), SequencePool()
    depth = Policy.depth_of(n_stages)
    knowledge = Knowledge.of(None, n_stages=n_stages)
    batcher = Batcher(
        pool,
        n_stages=n_stages,
        depth=depth,
        n_batch=N_BATCH,
        run_ids=run_ids,
        pacer=knowledge.pacer,
    )
    auto = AutoSpeculation() if case["strategy"] == "auto" else None
    streams = TokenStreams(pipeline, batcher, timeout_s=WAIT_S, nudge=engine.nudge, auto=auto)
    todo = list(enumerate(case["items"]))
    texts = [[] for _ in todo]
    active = set()
    while todo or active:
        while todo and len(active) < n_parallel:
            key, item = todo.pop(0)
            active.add(key)
            streams.begin(key, scheduler(item, case, n_stages, pool, knowledge), drafter)
        for key, tokens in streams.step():
            texts[key] += tokens
            if len(texts[key]) >= case["items"][key]["n_predict"]:
                streams.end(key)
                active.remove(key)
    streams.close()
    assert pool.n_used == 0
    engine.submit(Run(run_id=next(run_ids), kv_ops=pool.take_operations()))
    assert engine.wait(WAIT_S) is not None
    return {
        "tokens": [
            text[: item["n_predict"]] for text, item in zip(texts, case["items"], strict=True)
        ],
        "n_runs": pipeline.n_runs,
        "n_tokens": pipeline.n_tokens,
        "kv_positions": engine.kv_positions(),
    }


def drafter(slot):
    return NgramDrafter()


def scheduler(item, case, n_stages, pool, knowledge):
    draft = DraftConfig(n_max=4, p_min=0.0) if case.get("is_fixed") else DEFAULT_DRAFT
    return Scheduler(
        item["prompt"],
        n_max=item["n_predict"],
        policy=Policy.of(case["strategy"], draft, n_stages=n_stages, n_batch=N_BATCH),
        run_ids=count(1),
        pool=pool,
        sample=SampleParams(**item["sample"]) if "sample" in item else None,
        knowledge=knowledge,
    )


def body(comm, request):
    n_stages = comm.size - (request["layer_split"][0] == 0)

    def head(engine, run_ids):
        return [
            play(engine, run_ids, n_stages, case, request["n_parallel"])
            for case in request["cases"]
        ]

    return on_head(comm, request, head)


if __name__ == "__main__":
    main(body)
