"""Several runs at once through an emulated cluster; prints what its clocks say of them.

Request: model, n_ctx, layer_split. The second stage's first run is late by the links' long latency.
"""

import itertools

from ranks import main, open_engine, wait

from pipeinfer_cli.scheduler.runs import Run, RunToken

LATENCY_US = 400_000
N_RUNS, N_TOKENS = 6, 4
BYTES_PER_US = 125 * 0.94
CLUSTER = {"stage_ms": 20, "token_ms": 1, "latency_us": LATENCY_US, "gbit_per_s": 0.94}


def follow(results):
    """Starts and ends, by stage, in the order of the runs."""
    return [
        [
            (r.times[stage].start_us, r.times[stage].start_us + r.times[stage].compute_us)
            for r in results
        ]
        for stage in (0, 1)
    ]


def head(engine):
    for index in range(N_RUNS):
        first = index * N_TOKENS
        tokens = tuple(RunToken(id=500 + p, position=p) for p in range(first, first + N_TOKENS))
        engine.submit(Run(run_id=index + 1, tokens=tokens))
    engine.nudge()
    nudged = engine.wait(30)
    results = [wait(engine) for _ in range(N_RUNS)]
    stages = follow(results)
    pairs = [pair for stage in stages for pair in itertools.pairwise(stage)]
    hop_us = LATENCY_US + N_TOKENS * 32768 / BYTES_PER_US
    return {
        "nudged": nudged,
        "n_results": len(results),
        "starts": stages[0],
        "in_bytes": results[0].times[1].in_bytes // 32768 * 32768,
        "overtaken": sum(start < end_before for (_, end_before), (start, _) in pairs),
        "too_early": sum(
            start < end + hop_us - 1 for (_, end), (start, _) in zip(*stages, strict=True)
        ),
    }


def body(comm, request):
    with open_engine(comm, {**request, "emulate": CLUSTER}) as engine:
        if comm.rank == 0:
            return head(engine)
        while engine.serve(0.2) is None:
            pass
        return None


if __name__ == "__main__":
    main(body)
