"""An emulated stage in one process: its clock, and cancels while it waits."""

import itertools
import time
from contextlib import contextmanager

import pytest

from pipeinfer_cli.engine.config import EngineConfig, RankEmulation
from pipeinfer_cli.engine.engine import Engine
from pipeinfer_cli.engine.llama_cpp import capture_log
from pipeinfer_cli.errors import RunError
from pipeinfer_cli.scheduler.runs import KvKind, KvOp, Run, RunStatus, RunToken
from support import smollm2

pytestmark = pytest.mark.native

N_BATCH = 4
HOUR_US = 3_600_000_000
REMOVE_ALL = KvOp(kind=KvKind.REMOVE, seq_src=-1)


@contextmanager
def open_stage(*stage_us, bytes_per_us=100.0):
    capture_log()
    emulation = RankEmulation(
        stage_us=stage_us, latency_us=1, bytes_per_us=bytes_per_us, hidden_bytes=1
    )
    config = EngineConfig(
        model_path=smollm2(),
        layer_first=0,
        layer_last=30,
        n_ctx=128,
        n_cells=128,
        n_batch=N_BATCH,
        n_threads=1,
        emulation=emulation,
    )
    with Engine(config) as engine:
        yield engine


def run(run_id, n_tokens, kv_ops=(), start=0):
    positions = range(start, start + n_tokens)
    tokens = tuple(RunToken(id=504 + p, position=p, want=True) for p in positions)
    return Run(run_id=run_id, tokens=tokens, kv_ops=kv_ops)


def wait(engine):
    result = engine.wait(60)
    assert result is not None
    return result


def test_a_run_takes_the_time_for_its_tokens_and_says_what_was_late():
    stage_us = (1, 30_000, 60_000, 1)  # 1 us: the real compute takes longer
    with open_stage(*stage_us) as engine:
        for run_id, n_tokens in enumerate((1, 2, 3, 4, 3), start=1):
            engine.submit(run(run_id, n_tokens, (REMOVE_ALL,)))
        parts = [wait(engine).times[0] for _ in range(5)]
    for part, n_tokens in zip(parts, (1, 2, 3, 4, 3), strict=True):
        assert part.status is RunStatus.COMPLETED
        assert part.compute_us == stage_us[n_tokens - 1] + part.late_us
    assert parts[0].late_us > 0
    assert parts[3].late_us > 0
    for before, part in itertools.pairwise(parts):
        assert part.start_us >= before.start_us + before.compute_us


def test_the_tokens_are_real():
    with open_stage(1, 1, 1, 1) as engine:
        engine.submit(run(1, 4))
        fast = wait(engine).rows
    with open_stage(20_000, 20_000, 20_000, 20_000) as engine:
        engine.submit(run(1, 4))
        assert wait(engine).rows == fast


def test_a_cancel_ends_the_wait_and_leaves_no_cells():
    with open_stage(HOUR_US, 1, 1, 1) as engine:
        run_ids = itertools.count(1)
        engine.submit(run(next(run_ids), 2))
        rows = wait(engine).rows
        waited_us, pause_s = 0, 0.05
        # until one was given up long after its real compute
        while waited_us < 100_000:
            run_id = next(run_ids)
            engine.submit(run(run_id, 1, start=2))
            time.sleep(pause_s)
            engine.cancel(run_id, run_id)
            result = wait(engine)
            assert (result.status, result.rows) == (RunStatus.CANCELLED, ())
            if result.times[0].status is RunStatus.ABORTED:
                waited_us = result.times[0].compute_us
            pause_s *= 2
            assert engine.kv_positions() == 2
        engine.submit(run(next(run_ids), 2, (REMOVE_ALL,)))
        assert wait(engine).rows == rows


def test_a_run_that_waits_behind_a_cancelled_one_has_its_turn_at_once():
    with open_stage(HOUR_US, 1, 1, 1) as engine:
        engine.submit(run(1, 1))
        engine.submit(run(2, 2, (REMOVE_ALL,)))
        engine.cancel(1, 1)
        assert wait(engine).status is RunStatus.CANCELLED
        assert wait(engine).status is RunStatus.COMPLETED


def test_closing_ends_the_wait():
    with open_stage(HOUR_US, 1, 1, 1) as engine:
        engine.submit(run(1, 1))


@pytest.mark.parametrize(
    ("stage_us", "bytes_per_us", "words"),
    [((1,) * (N_BATCH - 1), 1.0, "a time for each"), ((1,) * N_BATCH, 0.0, "a bandwidth above 0")],
)
def test_what_makes_no_sense_is_refused(stage_us, bytes_per_us, words):
    with (
        pytest.raises(RunError, match=words),
        open_stage(*stage_us, bytes_per_us=bytes_per_us),
    ):
        pass
