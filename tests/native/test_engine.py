"""The engine in one process: its rules, KV operations and token trees. No MPI is started."""

import ctypes
import itertools
import re
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipeinfer_cli.drafters.thread import DraftThread
from pipeinfer_cli.engine import abi
from pipeinfer_cli.engine.config import EngineConfig
from pipeinfer_cli.engine.engine import Engine
from pipeinfer_cli.engine.llama_cpp import capture_log
from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.errors import RunError
from pipeinfer_cli.launch.host import numa
from pipeinfer_cli.models.gguf.info import read_model_info
from pipeinfer_cli.scheduler.interfaces import DraftBatch
from pipeinfer_cli.scheduler.runs import KvKind, KvOp, Run, RunStatus, RunToken
from support import PROMPTS, plain_decode, smollm2, smollm2_request

pytestmark = pytest.mark.native

N_BATCH = 32
N_LAYER = 30
WAIT_S = 30


@pytest.fixture
def engine():
    capture_log()
    config = EngineConfig(
        model_path=smollm2(),
        layer_first=0,
        layer_last=N_LAYER,
        n_ctx=512,
        n_cells=512,
        n_batch=N_BATCH,
        n_threads=1,
    )
    with Engine(config) as opened:
        yield opened


def chain(ids, start=0, seq_ids=(0,)):
    return tuple(
        RunToken(id=token, position=start + i, seq_ids=seq_ids, want=True)
        for i, token in enumerate(ids)
    )


def call(engine, run):
    engine.submit(run)
    result = engine.wait(WAIT_S)
    assert result.run_id == run.run_id
    return result


def greedy(engine, ids):
    return call(engine, Run(run_id=1, tokens=chain(ids))).rows


def n_mappings(path):
    return sum(str(path) in line for line in Path("/proc/self/maps").read_text().splitlines())


def locked_bytes():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmLck:\s+(\d+) kB", status)[1]) * 1024


def test_weights_that_are_read_give_the_same_tokens_without_a_mapping(engine):
    ids = Vocab(smollm2()).tokenize(PROMPTS[1])[:N_BATCH]
    expected, n_mapped = greedy(engine, ids), n_mappings(smollm2())
    assert n_mapped > 0
    with Engine(replace(engine.config, reads_weights=True)) as reading:
        assert n_mappings(smollm2()) == n_mapped
        assert greedy(reading, ids) == expected


def test_memory_is_locked_or_it_is_said_why_not(engine):
    n_locked, said = 0, ""
    try:
        with Engine(replace(engine.config, locks_memory=True)):
            n_locked = locked_bytes()
    except RunError as refused:  # without the right to do it
        said = str(refused)
    why = r"--mlock: memory cannot be locked \(.*\): raise its limit \(ulimit -l\), or leave"
    assert n_locked > sum(read_model_info(smollm2()).layer_bytes) or re.search(why, said)


def policies_of_threads():
    """The memory policies of this process's threads, by their names."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        name = (task / "comm").read_text().strip()
        found.setdefault(name, set()).add(numa.memory_policy(task / "numa_maps").partition(":")[0])
    return found


def test_memory_is_that_of_the_nodes_which_the_threads_have(engine):
    """The kernel leaves out nodes that the host does not have: in turn from one is one, too."""
    ids = Vocab(smollm2()).tokenize(PROMPTS[1])[:N_BATCH]
    expected = greedy(engine, ids)
    alone = replace(engine.config, n_threads=3, nodes=(0,))
    with Engine(alone) as near:
        assert policies_of_threads()["pi-compute"] == {"default"}
        assert greedy(near, ids) == expected
    engine.close()
    with Engine(replace(alone, nodes=(0, 1))) as spread:
        found = policies_of_threads()
        assert found.pop("pi-compute") == {"interleave"}
        assert set().union(*found.values()) == {"default"}
        assert greedy(spread, ids) == expected
    with pytest.raises(RunError, match="NUMA nodes must be from 0 to 1023"):
        Engine(replace(engine.config, nodes=(1024,)))


def test_model_info():
    info = read_model_info(smollm2())
    assert (info.arch, info.n_layer, info.n_embd, info.n_vocab) == ("llama", N_LAYER, 576, 49152)
    assert info.can_split
    assert info.tied_output
    assert len(info.layer_bytes) == N_LAYER
    assert sum(info.layer_bytes) + info.bytes_input + info.bytes_output == info.bytes_total


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (Run(run_id=0, tokens=chain([1])), "run ids must grow"),
        (Run(run_id=1, tokens=chain(range(N_BATCH + 1))), "more tokens than n_batch"),
        (Run(run_id=1, tokens=(RunToken(id=1, position=-1),)), "needs a position"),
        (Run(run_id=1, tokens=(RunToken(id=1, position=0, seq_ids=()),)), "1 to PI_MAX_SEQ"),
        (Run(run_id=1, tokens=(RunToken(id=1, position=0, seq_ids=(256,)),)), "out of"),
        (Run(run_id=1, tokens=(*chain([1]), *chain([2], 2))), "must follow one another"),
        (Run(run_id=1, tokens=(*chain([1], seq_ids=(0, 3)), *chain([2], seq_ids=(3,)))), "follow"),
        (Run(run_id=1, tokens=chain([1], seq_ids=(0, 0))), "must follow one another"),
        (Run(run_id=1, kv_ops=(KvOp(kind=KvKind.REMOVE, seq_src=0),) * 5000), "too many KV"),
        (Run(run_id=1, kv_ops=(KvOp(kind=KvKind.COPY, seq_src=0, seq_dst=256),)), "a copy needs"),
        (Run(run_id=1, kv_ops=(KvOp(kind=KvKind.COPY, seq_src=-1, seq_dst=1),)), "a copy needs"),
        (Run(run_id=1, kv_ops=(KvOp(kind=KvKind.REMOVE, seq_src=-2),)), "a removal needs"),
    ],
)
def test_runs_that_break_a_rule_are_refused_and_do_no_harm(engine, run, words):
    with pytest.raises(ValueError, match=words):
        engine.submit(run)
    assert call(engine, Run(run_id=1, tokens=chain([504]))).status is RunStatus.COMPLETED


@pytest.mark.timeout(60)
def test_an_assertion_of_llama_cpp_in_mid_work_fails_the_engine(engine):
    ggml = ctypes.CDLL(str(abi.lib_dir() / "libggml-base.so"))
    fails = threading.Thread(
        target=lambda: ggml.ggml_abort(b"/src/x.cpp", 7, b"it was %d", 3), daemon=True
    )
    fails.start()  # it never ends
    with pytest.raises(RunError, match=r"^rank 0: an assertion .* failed: x.cpp:7: it was 3$"):
        engine.wait(WAIT_S)


@pytest.mark.timeout(60)
def test_nobody_waits_for_a_drafter_on_whose_thread_an_assertion_failed(
    engine,
):
    ggml = ctypes.CDLL(str(abi.lib_dir() / "libggml-base.so"))

    class Asserting:
        def expand(self, batch, is_wanted):
            ggml.ggml_abort(b"/src/x.cpp", 8, b"a draft")  # it never ends

    assert engine.nudge()
    assert engine.wait(WAIT_S) is None
    thread = DraftThread(Asserting(), engine.nudge)
    thread.request(DraftBatch(0, [1], 1, ((),), 1))
    with pytest.raises(RunError, match=r"^rank 0: an assertion .* failed: x.cpp:8: a draft$"):
        engine.wait(WAIT_S)
    assert not engine.nudge()
    thread.close()


def test_a_run_without_tokens_carries_its_kv_operations(engine):
    call(engine, Run(run_id=1, tokens=chain([504, 3575, 282])))
    assert engine.kv_positions() == 3
    remove = KvOp(kind=KvKind.REMOVE, seq_src=0, pos_first=1)
    assert call(engine, Run(run_id=2, kv_ops=(remove,))).rows == ()
    assert engine.kv_positions() == 1


def test_kv_operations_of_a_cancelled_run_are_applied(engine):
    call(engine, Run(run_id=1, tokens=chain([504, 3575, 282])))
    remove = KvOp(kind=KvKind.REMOVE, seq_src=0, pos_first=1)
    engine.submit(Run(run_id=2, tokens=chain(range(N_BATCH), start=3)))  # keeps the stage busy
    engine.submit(Run(run_id=3, tokens=chain([7], start=1), kv_ops=(remove,)))
    engine.cancel(3, 3)
    assert engine.wait(WAIT_S).status is RunStatus.COMPLETED
    result = engine.wait(WAIT_S)
    assert (result.status, result.rows) == (RunStatus.CANCELLED, ())
    assert engine.kv_positions() == 1


def test_cancels_of_finished_and_unknown_runs_are_harmless(engine):
    first = call(engine, Run(run_id=1, tokens=chain([504])))
    engine.cancel(1, 1)
    engine.cancel(2, 200)  # not submitted yet: not meant
    again = call(
        engine,
        Run(run_id=2, tokens=chain([504]), kv_ops=(KvOp(kind=KvKind.REMOVE, seq_src=-1),)),
    )
    assert again.rows == first.rows


def test_results_come_in_the_order_of_submission(engine):
    runs = [Run(run_id=i + 1, tokens=chain([504 + i], start=i)) for i in range(20)]
    for run in runs:
        engine.submit(run)
    results = [engine.wait(WAIT_S) for _ in runs]
    assert [result.run_id for result in results] == [run.run_id for run in runs]
    assert all(len(result.rows) == 1 and len(result.times) == 1 for result in results)


def test_branches_of_a_tree_see_their_own_path_only(engine):
    """Two branches in one batch, on sequences of their own up to the highest id."""
    prompt = Vocab(smollm2()).tokenize(PROMPTS[0])
    branches = {7: [29, 42, 216], 255: [260, 314, 282]}
    run_ids = itertools.count(1)
    call(engine, Run(run_id=next(run_ids), tokens=chain(prompt)))
    copies = tuple(KvOp(kind=KvKind.COPY, seq_src=0, seq_dst=seq) for seq in branches)
    mixed = [
        token
        for step in zip(
            *(chain(ids, len(prompt), (seq,)) for seq, ids in branches.items()), strict=True
        )
        for token in step
    ]
    rows = call(engine, Run(run_id=next(run_ids), tokens=tuple(mixed), kv_ops=copies)).rows
    for index, ids in enumerate(branches.values()):
        plain = [
            plain_decode(smollm2_request([prompt + ids[: n + 1]], 1, 512))[0]["tokens"][0]
            for n in range(len(ids))
        ]
        assert list(rows[index :: len(branches)]) == plain


def test_an_engine_says_what_it_is_at(engine):
    """Who watches sees that a long run makes progress: see watchdog."""
    before = engine.activity()
    assert (before.run_id, before.done_id, before.awaited_id, before.is_due) == (0, 0, 0, False)
    for run_id in (5, 6):
        first = (run_id - 5) * N_BATCH
        engine.submit(Run(run_id=run_id, tokens=chain(range(N_BATCH), first)))
    moved, seen, give_up_s = set(), set(), time.monotonic() + WAIT_S
    while (activity := engine.activity()).done_id < 6 and time.monotonic() < give_up_s:
        moved.add(activity.moved)
        seen.add(activity.run_id)
    assert {5, 6} <= seen
    assert len(moved) > 10, "it computes, and does not seem to make progress"
    assert engine.activity().awaited_id == 5
    assert engine.wait(WAIT_S).run_id == 5
    activity = engine.activity()
    assert (activity.run_id, activity.done_id, activity.awaited_id, activity.is_due) == (
        0,
        6,
        6,
        True,
    )
    assert engine.wait(WAIT_S).run_id == 6
    assert not engine.activity().is_due


def test_a_wait_that_is_in_vain_can_be_ended(engine):
    threading.Timer(0.2, engine.give_up, args=("rank 7 is silent",)).start()
    with pytest.raises(RunError, match=r"^rank 7 is silent$"):
        engine.wait(WAIT_S)
    with pytest.raises(RunError, match=r"^rank 7 is silent$"):
        engine.submit(Run(run_id=1, tokens=chain([1])))
