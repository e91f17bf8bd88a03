"""The Slurm example, under a Slurm that is started for it."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import netns
import private_slurm
from pipeinfer_cli.launch.host import mpi_choice
from pipeinfer_cli.launch.host.cores import Cores, parse_cpulist
from private_slurm import Job, Slurm
from support import PROMPTS, TESTS, check_output, pipeinfer, smollm2

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif("TEST_SLURM" not in os.environ, reason="needs root: make test-slurm"),
]

EXAMPLE = TESTS.parent / "examples" / "slurm.sh"
BATCH = EXAMPLE.with_name("slurm-batch.sh")
NUMA = EXAMPLE.with_name("slurm-numa.sh")
SERVE = EXAMPLE.with_name("serve.sh")
OPTIONS = "-n 24 -c 256 --format json"
PROMPT = PROMPTS[1]
N_EMBD = 576  # of SmolLM2-135M
# The example asks for two nodes with four cores each; here is one with few.
HERE = ("--nodes=1", "--ntasks-per-node=2", "--cpus-per-task=1")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    lacks = private_slurm.missing()
    assert not lacks, f"this machine lacks: {', '.join(lacks)} (see tests/slurm/private_slurm.py)"
    with private_slurm.active(tmp_path_factory.mktemp("slurm")) as started:
        yield started


def run_example(slurm: Slurm, mpi_type: str, *here: str, script: Path = EXAMPLE) -> Job:
    settings = {"MODEL": str(smollm2()), "PROMPT": PROMPT, "OPTIONS": OPTIONS, "VENV": sys.prefix}
    return slurm.batch(script, *(here or HERE), MPI_TYPE=mpi_type, **settings)


@cache
def tokens_alone() -> list[int]:
    alone = pipeinfer("generate", "-m", "smollm2", *OPTIONS.split(), "--ranks", "1", PROMPT)
    tokens: list[int] = json.loads(check_output(alone))["tokens"]
    return tokens


def test_the_example_gives_the_text_of_one_process(slurm: Slurm) -> None:
    job = run_example(slurm, mpi_choice.choose().srun_type)
    print(EXAMPLE.read_text(), job.err, job.out, sep="\n")
    assert job.code == 0, job.err
    answer = json.loads(job.out)
    assert answer["tokens"] == tokens_alone()
    assert answer["job_id"] == job.job_id
    assert answer["stats"]["n_ranks"] == 2
    rows = [line.split() for line in job.err.splitlines() if line.startswith("pipeinfer: ")]
    # rank, host, cores, threads: Slurm binds each rank to a core of its own
    all_resources = [row[1:5] for row in rows if row[1] in ("0", "1")]
    assert [resources[3] for resources in all_resources] == ["1", "1"]
    assert len({resources[2] for resources in all_resources}) == 2


def test_a_rank_per_numa_node(slurm: Slurm) -> None:
    """Of which there may be one: then both ranks are in it."""
    job = run_example(slurm, mpi_choice.choose({}).srun_type, "--nodes=1", script=NUMA)
    print(job.err)
    assert job.code == 0, job.err
    assert json.loads(job.out)["tokens"] == tokens_alone()
    rows = [line.split() for line in job.err.splitlines() if line.startswith("pipeinfer: ")]
    masks = [parse_cpulist(row[3]) for row in rows if row[1] in ("0", "1")]
    nodes = [set(Cores.read().nodes_of(mask)) for mask in masks]
    assert [len(each) for each in nodes] == [1, 1], "ldoms"


def test_the_example_on_two_nodes(tmp_path: Path) -> None:
    """Just as it is, but for the cores: nodes with addresses of their own, and slow links."""
    lacks = netns.missing()
    assert not lacks, f"this machine lacks: {', '.join(lacks)}"
    with netns.hosts(2, netns.Network()) as hosts, private_slurm.active(tmp_path, hosts) as slurm:
        job = run_example(slurm, mpi_choice.choose().srun_type, "--cpus-per-task=1")
        sent = hosts.sent_bytes(1)
    print(job.err)
    assert job.code == 0, job.err
    assert json.loads(job.out)["tokens"] == tokens_alone()
    placed = re.findall(r"^pipeinfer: (\d)  +(host\d) ", job.err, re.MULTILINE)
    assert placed == [("0", "host1"), ("1", "host2")]
    assert sent > 24 * N_EMBD * 4


@pytest.mark.timeout(300)
def test_a_batch_goes_back_into_the_queue_until_it_is_complete(
    slurm: Slurm, tmp_path: Path
) -> None:
    """With the signal from scancel, which sends it as --signal does: to the ranks alone."""
    prompts, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    items = [{"id": index, "prompt": f"Item {index}:", "n_predict": 200} for index in range(12)]
    prompts.write_text("".join(f"{json.dumps(item)}\n" for item in items))
    settings = {"MODEL": str(smollm2()), "VENV": sys.prefix, "OPTIONS": "-c 256 -t 1 --ignore-eos"}
    files = {"PROMPTS": str(prompts), "OUTPUT": str(output)}
    mpi_type = mpi_choice.choose().srun_type
    submit = ("sbatch", "--parsable", f"--chdir={slurm.folder}", "--nodes=1", "--time=10")
    done = slurm.run(*submit, str(BATCH), MPI_TYPE=mpi_type, **settings, **files)
    job_id = done.stdout.strip()
    assert job_id.isdecimal(), (done.stdout, done.stderr)
    log = slurm.folder / f"pipeinfer-{job_id}.log"
    deadline_s = time.monotonic() + 250
    is_signalled = is_begun_again = False
    while (state := shown(slurm, job_id, "JobState")) != "COMPLETED":
        # FAILED is the state for a moment, before the job is pending again.
        assert time.monotonic() < deadline_s, (state, log.read_text())
        if not is_signalled and output.exists() and output.read_bytes().count(b"\n") >= 2:
            is_signalled = slurm.run("scancel", "--signal=USR1", job_id).returncode == 0
        if not is_begun_again and state == "PENDING" and shown(slurm, job_id, "Restarts") == "1":
            # Not in minutes, but after all that Slurm does to end the first run.
            soon = slurm.run("scontrol", "update", f"JobId={job_id}", "StartTime=now+10")
            is_begun_again = soon.returncode == 0
        time.sleep(0.3)
    said = log.read_text()
    print(said)
    assert shown(slurm, job_id, "Restarts") == "1"
    assert f"of {len(items)} items are in {output}: give --resume to continue" in said
    assert f"{output} is not complete: the job goes back into the queue" in said
    assert f"{len(items)} items, none failed" in said
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(line["id"], len(line["tokens"])) for line in lines] == [
        (item["id"], 200) for item in items
    ]


def shown(slurm: Slurm, job_id: str, key: str) -> str:
    """What Slurm says of a job."""
    text = slurm.run("scontrol", "--oneliner", "show", "job", job_id).stdout
    found = re.search(rf"\b{key}=(\S+)", text)
    assert found, text
    return found[1]


def test_mpiexec_in_a_job_takes_its_nodes(slurm: Slurm) -> None:
    mpi = mpi_choice.choose()
    as_root = ["--allow-run-as-root"] if mpi.family == "openmpi" else []
    command = [str(mpi.mpiexec), *as_root, "-n", "2", *pipeinfer("generate", "-m", "smollm2")]
    done = slurm.run("salloc", "-Q", "-n2", *command, *OPTIONS.split(), PROMPT)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["tokens"], answer["stats"]["n_ranks"]) == (tokens_alone(), 2)


@pytest.mark.parametrize("mpi_type", ["none", "other"])
def test_copies_that_do_not_see_one_another_are_refused(slurm: Slurm, mpi_type: str) -> None:
    right = mpi_choice.choose().srun_type
    if mpi_type == "other":
        mpi_type = "pmi2" if right == "pmix" else "pmix"
        if slurm.run("srun", f"--mpi={mpi_type}", "true").returncode != 0:
            pytest.skip(f"this Slurm has no {mpi_type}, or not its library")
    job = run_example(slurm, mpi_type)
    assert (job.code, job.out) == (2, "")
    # srun adds lines of its own
    (line,) = [each for each in job.err.splitlines() if not each.startswith("srun: ")]
    assert line.startswith("pipeinfer: error: started as one of 2 tasks by ")
    assert f"use srun --mpi={right}, or " in line


@pytest.mark.timeout(300)
def test_a_server_in_a_job(slurm: Slurm, tmp_path: Path) -> None:
    """It answers whoever has the key, and ends well with scancel."""
    place = tmp_path / "url"
    settings = {"MODEL": str(smollm2()), "VENV": sys.prefix, "OPTIONS": "-c 512"}
    settings |= {"PIPEINFER_API_KEY": "secret", "URL_FILE": str(place), "PORT": "0"}
    submit = ("sbatch", "--parsable", f"--chdir={slurm.folder}", *HERE, "--time=10")
    mpi_type = mpi_choice.choose().srun_type
    done = slurm.run(*submit, str(SERVE), MPI_TYPE=mpi_type, **settings)
    job_id = done.stdout.strip()
    assert job_id.isdecimal(), (done.stdout, done.stderr)
    log = slurm.folder / f"pipeinfer-{job_id}.log"
    private_slurm.wait_until(place.exists, (), slurm, timeout_s=100)
    fields = dict(each.split("=", 1) for each in shlex.split(place.read_text()))
    assert fields["api_key"] == "secret"
    body = {"prompt": PROMPT, "max_tokens": 24, "temperature": 0}
    request = urllib.request.Request(fields["base_url"] + "/completions", json.dumps(body).encode())
    request.add_header("content-type", "application/json")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(request, timeout=60)
    request.add_header("authorization", "Bearer secret")
    with urllib.request.urlopen(request, timeout=60) as answer:
        text = json.load(answer)["choices"][0]["text"]
    alone = pipeinfer("generate", "-m", "smollm2", "-n", "24", "-c", "512", "--ranks", "1", PROMPT)
    assert text == check_output(alone).removesuffix("\n")
    assert slurm.run("scancel", job_id).returncode == 0
    private_slurm.wait_until(
        lambda: shown(slurm, job_id, "JobState") not in ("RUNNING", "COMPLETING"),
        (),
        slurm,
        timeout_s=100,
    )
    said = log.read_text()
    assert f"from a laptop: {fields['tunnel']}" in said
    assert "pipeinfer: ended" in said
    assert not place.exists()
