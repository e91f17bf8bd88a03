"""What can happen to whom, and when: each ends in time, says who and what, and leaves nothing.

A few of the cells are tested always; with TEST_FAULTS=1 (make test-faults) all of them.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest

from architectures import TINY_MODELS
from batches import count_lines, options, write_items
from jobs import Job
from pipeinfer_cli.launch.watchdog.heartbeat import HEARTBEAT_BYTES
from support import TESTS, pipeinfer

pytestmark = pytest.mark.e2e

ALL = bool(os.environ.get("TEST_FAULTS"))
RANKS = 3
TIMEOUT_S = 4  # --timeout
# From the fault to the end: the silence, a main thread's grace, and what the parent insists on.
END_S = TIMEOUT_S + 12
HEAD, FIRST, LAST = 0, 1, 2  # the head holds stage 0
PHASES = ("load", "prefill", "decode", "shutdown")
FAULTS = ("killed", "stopped", "oom", "full", "link")
# Cells that make no sense, and why.
NONSENSE = {
    ("oom", "prefill"): "all memory is taken at load: later it is the kernel's SIGKILL",
    ("oom", "decode"): "the same",
    ("oom", "shutdown"): "the same",
    ("full", "load"): "no text is written yet",
    ("full", "prefill"): "no text is written yet",
    ("link", "load"): "stages send each other nothing yet",
}
SAMPLE = {
    ("killed", "prefill", LAST),
    ("killed", "shutdown", FIRST),
    ("stopped", "load", FIRST),
    ("stopped", "prefill", HEAD),
    ("stopped", "decode", LAST),
    ("stopped", "shutdown", LAST),
    ("oom", "load", LAST),
    ("oom", "load", HEAD),
    ("full", "decode", HEAD),
    ("full", "shutdown", HEAD),
    ("link", "decode", FIRST),
    ("link", "shutdown", HEAD),
}


@dataclass(frozen=True)
class Cell:
    fault: str
    phase: str
    rank: int

    @property
    def makes_sense(self):
        if (self.fault, self.phase) in NONSENSE or (self.fault == "full" and self.rank != HEAD):
            return False  # only the head writes
        return (self.fault, self.phase) != ("link", "shutdown") or self.rank == HEAD

    def __str__(self):
        return f"{self.fault}-{self.phase}-{('head', 'stage1', 'last')[self.rank]}"


CELLS = [Cell(*each) for each in product(FAULTS, PHASES, (FIRST, LAST, HEAD))]
SENSIBLE = [cell for cell in CELLS if cell.makes_sense]


def test_the_sample_is_of_the_matrix():
    assert {(each.fault, each.phase, each.rank) for each in SENSIBLE} > SAMPLE


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return TINY_MODELS[0].write(tmp_path_factory.mktemp("faults") / "tiny.gguf")


@pytest.fixture(scope="module")
def cut_library(tmp_path_factory):
    """tests/faulty/cut.c, built against the MPI of this environment."""
    library = tmp_path_factory.mktemp("cut") / "libcut.so"
    mpicc = shutil.which(Path(sys.prefix) / "bin" / "mpicc") or shutil.which("mpicc")
    assert mpicc is not None
    subprocess.run([mpicc, "-shared", "-fPIC", "-o", library, TESTS / "faulty/cut.c"], check=True)
    return library


def start(cell, model, tmp_path, request, *more):
    """The job, which comes to the cell's phase and waits there for its fault."""
    case = {"place": str(tmp_path), "phase": cell.phase, "rank": cell.rank, "fault": cell.fault}
    env = {"FAULT": json.dumps(case), "PYTHONPATH": str(TESTS / "faulty")}
    if cell.fault == "link":
        env["LD_PRELOAD"] = str(request.getfixturevalue("cut_library"))
        env |= {"CUT_RANK": str(cell.rank), "CUT_FILE": str(tmp_path / "cut")}
        env["CUT_KEEPS"] = str(HEARTBEAT_BYTES)
    n_predict = "8" if cell.phase == "shutdown" else "15000"
    command = pipeinfer(
        *("generate", "-m", str(model), "--ranks", str(RANKS), "-t", "1", "-c", "16000"),
        *("-n", n_predict, "--ignore-eos", "--timeout", str(TIMEOUT_S), *more, "words," * 20),
    )
    stdout = os.open("/dev/full", os.O_WRONLY) if cell.fault == "full" else None
    try:
        return Job(command, tmp_path, env=env, stdout=stdout)
    finally:
        if stdout is not None:
            os.close(stdout)


def harm(cell, job, tmp_path):
    """Waits for the phase and has the fault come."""
    if cell.fault in ("oom", "full"):
        return  # it comes by itself
    if cell.phase == "decode":
        job.await_text()
    else:
        job.await_file(f"{cell.phase}-{HEAD if cell.phase == 'prefill' else cell.rank}")
    pid = job.rank_pid(cell.rank)
    job.note_shared_memory()
    if cell.fault == "killed":
        os.kill(pid, signal.SIGKILL)
    elif cell.fault == "stopped":
        os.kill(pid, signal.SIGSTOP)
    else:
        (tmp_path / "cut").touch()
    (tmp_path / "go").touch()


def words(cell):
    """What the one line on stderr says."""
    who = f"rank {cell.rank}"
    if cell.fault == "killed":
        return [who, "SIGKILL"]
    if cell.fault == "stopped":
        when = {"load": "while loading"}.get(cell.phase, "")
        return [who, "no sign of life", when]
    if cell.fault == "oom":
        return [f"{who} on ", "cannot load"]
    if cell.fault == "full":
        return ["cannot write to stdout: No space left on device"]
    if cell.phase == "shutdown":
        return ["rank 1", "has not ended"]
    if cell.rank == LAST:
        return ["the result of run", "has not arrived from rank 2", "link"]
    return ["has not arrived at rank", f"though {who} on ", "has sent it", "link"]


@pytest.mark.parametrize("cell", SENSIBLE, ids=str)
def test_a_fault_ends_the_job(cell, model, tmp_path, request):
    if not ALL and (cell.fault, cell.phase, cell.rank) not in SAMPLE:
        pytest.skip("only with TEST_FAULTS=1")
    # whole output at the end: the disk is full then
    more = ["--format", "json"] if (cell.fault, cell.phase) == ("full", "shutdown") else []
    with start(cell, model, tmp_path, request, *more) as job:
        harm(cell, job, tmp_path)
        # a job that has its fault to come yet has to start, too
        code, out, lines = job.end(END_S + (30 if cell.fault in ("oom", "full") else 0))
    lines = [line for line in lines if not line.startswith("pipeinfer: note: ")]  # of -c
    assert code == 1, lines
    assert len(lines) == 1, lines
    assert lines[0].startswith("pipeinfer: error: ")
    for word in words(cell):
        assert word in lines[0], lines[0]
    if cell.phase == "decode" and cell.fault != "full":
        assert out, "the text that was there is lost"


@pytest.mark.parametrize(
    "cell", [Cell("stopped", "decode", FIRST), Cell("killed", "decode", LAST)], ids=str
)
def test_a_batch_goes_on_after_a_fault(cell, model, tmp_path):
    """Output so far is whole lines; resumed, it becomes an undisturbed run's, byte for byte."""
    # the first item is short, the others are long enough for the fault to meet one of them
    made = [{"prompt": "a", "n_predict": 2}, *({"prompt": f"b{i}"} for i in range(5))]
    prompts = write_items(tmp_path / "in.jsonl", made)
    (tmp_path / "job").mkdir()

    def command(output, *more):
        return pipeinfer(*options(model, prompts, output, "-n", "200", *more))

    output, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    timeout = ("--timeout", str(TIMEOUT_S))
    with Job(command(output, "--ranks", "3", *timeout), tmp_path / "job") as job:
        while count_lines(output) < 1:
            assert job.process.poll() is None
        pid = job.rank_pid(cell.rank)
        job.note_shared_memory()
        os.kill(pid, signal.SIGKILL if cell.fault == "killed" else signal.SIGSTOP)
        code, _, lines = job.end(END_S)
    assert code == 1, lines
    (line,) = lines
    for word in words(cell):
        assert word in line
    so_far = output.read_bytes()
    assert so_far.endswith(b"\n")
    assert 1 <= so_far.count(b"\n") < len(made)
    for each, more in ((whole, ("--ranks", "1")), (output, ("--ranks", "2", "--resume"))):
        subprocess.run(command(each, *more), check=True, timeout=60)
    assert whole.read_bytes().startswith(so_far)
    assert output.read_bytes() == whole.read_bytes()
