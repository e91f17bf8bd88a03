"""Token ids of several prompts, one after the other, through one pipeline.

Request: model, n_ctx, layer_split, prompts ([[ids]]), n_predict, maybe sample, strategy and
drafter (see tests/mpi/guessers.py). Prints the answers, and what became of the drafts in all.
"""

from itertools import islice

from guessers import make_guesser
from ranks import N_BATCH, REMOVE_ALL, WAIT_S, call, main, on_head

from pipeinfer_cli.drafting import DraftThread
from pipeinfer_cli.gate import Gate
from pipeinfer_cli.head import TokenStream
from pipeinfer_cli.policy import DraftConfig, Policy
from pipeinfer_cli.runs import Run
from pipeinfer_cli.scheduler import Scheduler


def body(comm, request):
    strategy = request.get("strategy", "iterative")
    n_stages = comm.size - (request["layer_split"][0] == 0)

    def answer(engine, run_ids, prompt, truth):
        call(engine, Run(run_id=next(run_ids), kv_ops=(REMOVE_ALL,)))
        drafts, draft_config = None, None
        if strategy != "iterative":
            guesser = make_guesser(request["drafter"], request, prompt, truth)
            drafts = DraftThread(guesser, engine.nudge)
            draft_config = DraftConfig(n_max=4, p_min=0.3)
        policy = Policy.of(strategy, draft_config, n_stages=n_stages, n_batch=N_BATCH)
        n_max = request["n_predict"]
        scheduler = Scheduler(prompt, n_max=n_max, policy=policy, run_ids=run_ids)
        gate = Gate() if strategy == "auto" else None
        stream = TokenStream(engine, scheduler, timeout_s=WAIT_S, drafts=drafts, gate=gate)
        tokens = list(islice(stream, n_max))
        if drafts is not None:
            drafts.close()
        stream.finish()
        return tokens, scheduler.counters

    def head(engine, run_ids):
        truths = request.get("truths", [[]] * len(request["prompts"]))
        answers = [
            answer(engine, run_ids, prompt, truth)
            for prompt, truth in zip(request["prompts"], truths, strict=True)
        ]
        return {
            "tokens": [tokens for tokens, _ in answers],
            "n_drafted": sum(counters.n_drafted for _, counters in answers),
            "n_accepted": sum(counters.n_accepted for _, counters in answers),
            "n_cancelled": sum(counters.n_cancelled for _, counters in answers),
        }

    return on_head(comm, request, head)


if __name__ == "__main__":
    main(body)
