"""The CPUs that threads of running ranks may use, as the kernel has them."""

import os
import threading
from pathlib import Path

import pytest

from jobs import Job
from pipeinfer_cli.engine.config import DraftCores
from pipeinfer_cli.engine.draft import DraftModel
from pipeinfer_cli.engine.llama_cpp import capture_log
from pipeinfer_cli.launch.environment import affinity, format_cpulist
from pipeinfer_cli.launch.host.cores import parse_cpulist
from pipeinfer_cli.scheduler.runs import DEFAULT_SAMPLE, Run, RunToken
from support import pipeinfer, smollm2

pytestmark = pytest.mark.e2e

ENDLESS = ["-n", "3000", "-c", "3500", "--ignore-eos", "--strategy", "iterative", "Once"]
ALL = affinity()

needs_two = pytest.mark.skipif(len(ALL) < 2, reason="one CPU")


def masks_of(pid):
    """The masks of a process's compute threads, and of all its others."""
    compute, others = set(), set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        fields = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
        is_compute = fields["Name"].strip() in ("pi-compute", "pi-draft")
        (compute if is_compute else others).add(parse_cpulist(fields["Cpus_allowed_list"]))
    return compute, others


def bound(tmp_path, ranks, *options, mask=None):
    """What `masks_of` says of each rank of a job that has begun to write."""
    command = pipeinfer("generate", "-m", str(smollm2()), "--ranks", str(ranks), *options, *ENDLESS)
    if mask is not None:
        command = ["taskset", "-c", format_cpulist(mask), *command]
    with Job(command, tmp_path) as job:
        job.await_text()
        pids = [job.process.pid] if ranks == 1 else [job.rank_pid(rank) for rank in range(ranks)]
        return [masks_of(pid) for pid in pids]


def test_a_rank_alone_has_its_whole_mask(tmp_path):
    [(compute, others)] = bound(tmp_path, 1, "-t", str(len(ALL)), "--bind", "on")
    assert compute == others == {ALL}


@needs_two
def test_ranks_have_cores_of_their_own(tmp_path):
    first, second = bound(tmp_path, 2, "-t", "1", "--bind", "on")
    [mine], [other] = first[0], second[0]
    assert mine and other and not mine & other
    assert mine | other <= ALL
    # Python and MPI may use the cores of a rank that computes nothing at the moment
    assert first[1] == second[1] == {ALL}


def test_more_threads_than_cores_are_not_bound(tmp_path):
    for compute, others in bound(tmp_path, 2, "-t", str(len(ALL)), "--bind", "on"):
        assert compute == others == {ALL}


@needs_two
def test_binding_can_be_switched_off(tmp_path):
    for compute, others in bound(tmp_path, 2, "-t", "1", "--bind", "off"):
        assert compute == others == {ALL}


@needs_two
def test_a_restricted_mask_is_not_left(tmp_path):
    mask = frozenset(sorted(ALL)[1:2])
    [(compute, others)] = bound(tmp_path, 1, "--bind", "on", mask=mask)
    assert compute == others == {mask}


@needs_two
def test_a_drafting_thread_goes_back_to_its_other_work():
    capture_log()
    cores = DraftCores(n_threads=2, cpus=tuple(sorted(ALL)[1:]))
    draft = DraftModel(smollm2(), n_ctx=256, n_cells=256, n_batch=32, cores=cores)
    tokens = tuple(RunToken(id=i, position=i - 1) for i in (1, 2, 3))
    draft.expand(Run(run_id=1, tokens=tokens), draft.n_vocab, DEFAULT_SAMPLE)
    assert os.sched_getaffinity(threading.get_native_id()) == ALL
    assert masks_of(os.getpid()) == ({ALL - {min(ALL)}}, {ALL})
    draft.close()
