"""Rank 0 submits runs and ends the job while they are computed: nobody waits for the results."""

from __future__ import annotations

from typing import Any

from ranks import N_BATCH, main, on_head

from pipeinfer_cli.scheduler.runs import Run, RunToken


def body(comm: Any, request: dict[str, Any]) -> Any:
    def head(engine: Any, run_ids: Any) -> int:
        for first in range(0, request["n_runs"] * N_BATCH, N_BATCH):
            tokens = [RunToken(id=5 + i, position=first + i, want=True) for i in range(N_BATCH)]
            engine.submit(Run(run_id=next(run_ids), tokens=tuple(tokens)))
        if request["is_under_way"]:  # on the other ranks, too
            engine.wait(60)
        return int(request["n_runs"])

    return on_head(comm, request, head)


if __name__ == "__main__":
    main(body)
