"""SHA-256 of the logits of each position of a text, for a list of layer splits.

Request: model, n_ctx, tokens ([ids]), layer_splits; maybe n_each: tokens per run, of which the last
one's logits count (1); maybe redo_from: from this position on, the text is taken back and decoded
again; maybe first_position: of the first token (0); maybe models: a path for each rank, instead of
model. Prints [[hash per run] per split].

{"requests": [...]}: many of them, one after the other. Prints what each would have printed, after
the hashes per token of the first rank alone with all layers: these requests have n_layer, too.
"""

import hashlib
import time
from pathlib import Path

from ranks import call, main, open_alone, open_engine

from pipeinfer_cli.models.gguf.info import read_model_info
from pipeinfer_cli.scheduler.runs import KvKind, KvOp, Run, RunToken


def body(comm, request):
    if "requests" in request:
        return [[alone(comm, each), *hashes_of_splits(comm, each)] for each in request["requests"]]
    return hashes_of_splits(comm, request)


def hashes_of_splits(comm, request):
    model = request["models"][comm.rank] if "models" in request else request["model"]
    return [
        hashes_of(comm, {**request, "model": model, "layer_split": split})
        for split in request["layer_splits"]
    ]


def alone(comm, request):
    """The first rank's hashes; the others wait for it."""
    hashes = None
    if comm.rank == 0:
        n_vocab = read_model_info(Path(request["model"])).n_vocab
        with open_alone(request) as engine:
            hashes = []
            for run in runs({**request, "n_each": 1}):
                call(engine, run)
                hashes.append(digest(engine, n_vocab))
    meet(comm)
    return hashes


def meet(comm):
    """A barrier that sleeps: MPI's own would take the cores of those that compute."""
    everyone = comm.Ibarrier()
    while not everyone.Test():
        time.sleep(0.0005)


def hashes_of(comm, request):
    n_vocab = read_model_info(Path(request["model"])).n_vocab
    hashes = []
    with open_engine(comm, request) as engine:
        for run in runs(request):
            if comm.rank == 0:
                call(engine, run)
            meet(comm)  # MPI serves two threads: the engine's and this one
            hashes.append(digest(engine, n_vocab))
            meet(comm)  # the next run takes the place of these logits
    return comm.bcast(hashes, root=comm.size - 1)


def digest(engine, n_vocab):
    """Of the last row's logits; None on a rank that has none."""
    logits = engine.last_logits(n_vocab)
    return None if logits is None else hashlib.sha256(logits.tobytes()).hexdigest()


def runs(request):
    """The runs of a text, and those that decode its end again, after what takes it back."""
    ids, n_each = request["tokens"], request.get("n_each", 1)
    redo_from = request.get("redo_from", len(ids))
    start = request.get("first_position", 0)
    take_back = KvOp(kind=KvKind.REMOVE, seq_src=0, pos_first=start + redo_from)
    first_time = [(at, ()) for at in range(0, len(ids), n_each)]
    again = [
        (at, (take_back,) if at == redo_from else ()) for at in range(redo_from, len(ids), n_each)
    ]
    for run_id, (first, kv_ops) in enumerate([*first_time, *again], start=1):
        chain = tuple(
            RunToken(id=token, position=start + first + i, want=True)
            for i, token in enumerate(ids[first : first + n_each])
        )
        yield Run(run_id=run_id, tokens=chain, kv_ops=kv_ops)


if __name__ == "__main__":
    main(body)
