"""SHA-256 of the logits of each position of a text, for a list of layer splits.

Request: model, n_ctx, tokens ([ids]), layer_splits. Prints [[hash per position] per split].
"""

import hashlib

from ranks import call, main, open_engine

from pipeinfer_cli.native import read_model_info
from pipeinfer_cli.runs import Run, RunToken


def body(comm, request):
    n_vocab = read_model_info(request["model"]).n_vocab
    return [
        hashes_of(comm, {**request, "layer_split": split}, n_vocab)
        for split in request["layer_splits"]
    ]


def hashes_of(comm, request, n_vocab):
    hashes = []
    with open_engine(comm, request) as engine:
        for position, token in enumerate(request["tokens"]):
            if comm.rank == 0:
                wanted = RunToken(id=token, position=position, want=True)
                call(engine, Run(run_id=position + 1, tokens=(wanted,)))
            comm.Barrier()  # MPI serves two threads: the engine's and this one
            logits = engine.last_logits(n_vocab)
            digest = None if logits is None else hashlib.sha256(logits.tobytes()).hexdigest()
            hashes.append(comm.bcast(digest, root=comm.size - 1))
    return hashes


if __name__ == "__main__":
    main(body)
