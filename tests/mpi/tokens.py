"""Greedy token ids of several prompts, one after the other, through one pipeline.

Request: model, n_ctx, layer_split, prompts ([[ids]]), n_predict.
"""

from itertools import islice

from ranks import N_BATCH, REMOVE_ALL, WAIT_S, call, main, on_head

from pipeinfer_cli.head import token_stream
from pipeinfer_cli.runs import Run
from pipeinfer_cli.scheduler import Iterative


def body(comm, request):
    def head(engine, run_ids):
        answers = []
        for prompt in request["prompts"]:
            call(engine, Run(run_id=next(run_ids), kv_ops=(REMOVE_ALL,)))
            scheduler = Iterative(prompt, n_batch=N_BATCH, depth=2 * comm.size, run_ids=run_ids)
            stream = token_stream(engine, scheduler, timeout_s=WAIT_S)
            answers.append(list(islice(stream, request["n_predict"])))
        return answers

    return on_head(comm, request, head)


if __name__ == "__main__":
    main(body)
