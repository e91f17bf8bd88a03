"""The Slurm example, under a Slurm that is started for it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator

import pytest

import private_slurm
from pipeinfer_cli import build_info
from private_slurm import Job, Slurm
from support import PROMPTS, TESTS, check_output, pipeinfer, smollm2

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif("TEST_SLURM" not in os.environ, reason="needs root: make test-slurm"),
]

EXAMPLE = TESTS.parent / "examples" / "slurm.sh"
OPTIONS = "-n 24 -c 256 --format json"
PROMPT = PROMPTS[1]
# The example asks for two nodes with four cores each; here is one with few.
HERE = ("--nodes=1", "--ntasks-per-node=2", "--cpus-per-task=1")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    lacks = private_slurm.missing()
    assert not lacks, f"this machine lacks: {', '.join(lacks)} (see tests/slurm/private_slurm.py)"
    with private_slurm.running(tmp_path_factory.mktemp("slurm")) as started:
        yield started


def run_example(slurm: Slurm, mpi_type: str) -> Job:
    settings = {"MODEL": str(smollm2()), "PROMPT": PROMPT, "OPTIONS": OPTIONS, "VENV": sys.prefix}
    return slurm.batch(EXAMPLE, *HERE, MPI_TYPE=mpi_type, **settings)


def test_the_example_gives_the_text_of_one_process(slurm: Slurm) -> None:
    job = run_example(slurm, build_info.load().mpi.srun_type)
    print(EXAMPLE.read_text(), job.err, job.out, sep="\n")
    assert job.code == 0, job.err
    answer = json.loads(job.out)
    alone = json.loads(
        check_output(
            pipeinfer("generate", "-m", "smollm2", *OPTIONS.split(), "--ranks", "1", PROMPT)
        )
    )
    assert answer["tokens"] == alone["tokens"]
    assert answer["job_id"] == job.job_id
    assert answer["stats"]["n_ranks"] == 2
    rows = [line.split() for line in job.err.splitlines() if line.startswith("pipeinfer: ")]
    # rank, host, cores, threads: Slurm binds each rank to a core of its own
    seats = [row[1:5] for row in rows if row[1] in ("0", "1")]
    assert [seat[3] for seat in seats] == ["1", "1"]
    assert len({seat[2] for seat in seats}) == 2


def test_copies_that_do_not_see_one_another_are_refused(slurm: Slurm) -> None:
    job = run_example(slurm, "none")
    assert (job.code, job.out) == (2, "")
    (line,) = [each for each in job.err.splitlines() if each.startswith("pipeinfer: ")]
    assert "one of 2 tasks by srun" in line
    assert f"srun --mpi={build_info.load().mpi.srun_type}" in line
