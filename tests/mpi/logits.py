"""SHA-256 of the logits of each position of a text, for a list of layer splits.

Request: model, n_ctx, tokens ([ids]), layer_splits; maybe n_each: tokens per run, of which the last
one's logits count (1); maybe redo_from: from this position on, the text is taken back and decoded
again; maybe first_position: of the first token (0). Prints [[hash per run] per split].
"""

import hashlib
import itertools
from pathlib import Path

from ranks import call, main, open_engine

from pipeinfer_cli.models.gguf.info import read_model_info
from pipeinfer_cli.scheduler.runs import KvKind, KvOp, Run, RunToken


def body(comm, request):
    n_vocab = read_model_info(Path(request["model"])).n_vocab
    return [
        hashes_of(comm, {**request, "layer_split": split}, n_vocab)
        for split in request["layer_splits"]
    ]


def hashes_of(comm, request, n_vocab):
    hashes = []
    run_ids = itertools.count(1)
    start = request.get("first_position", 0)
    with open_engine(comm, request) as engine:
        for indexes, kv_ops in steps(request):
            if comm.rank == 0:
                ids = request["tokens"]
                chain = tuple(
                    RunToken(id=ids[at], position=start + at, want=True) for at in indexes
                )
                call(engine, Run(run_id=next(run_ids), tokens=chain, kv_ops=kv_ops))
            comm.Barrier()  # MPI serves two threads: the engine's and this one
            logits = engine.last_logits(n_vocab)
            digest = None if logits is None else hashlib.sha256(logits.tobytes()).hexdigest()
            hashes.append(comm.bcast(digest, root=comm.size - 1))
    return hashes


def steps(request):
    """The indexes of each run's tokens, with the KV operations to apply before."""
    n_tokens, n_each = len(request["tokens"]), request.get("n_each", 1)
    redo_from = request.get("redo_from", n_tokens)
    first_position = request.get("first_position", 0)
    take_back = KvOp(kind=KvKind.REMOVE, seq_src=0, pos_first=first_position + redo_from)
    for start in (0, redo_from):
        for first in range(start, n_tokens, n_each):
            is_redo = first == redo_from == start
            yield range(first, min(first + n_each, n_tokens)), (take_back,) if is_redo else ()


if __name__ == "__main__":
    main(body)
