"""The scripts of examples/ with stand-ins for launcher and batch system: what these are told."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeinfer_cli.cli import main
from pipeinfer_cli.commands import start
from pipeinfer_cli.commands.batch.config import BatchConfig
from pipeinfer_cli.commands.generate_config import GenerateConfig

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.sh"))
# Notes its words, one a line, and ends with the exit code that the test has chosen for it.
STAND_IN = """#!/bin/bash
name=${0##*/}
printf '%s\\n' "$@" > "$NOTES/$name"
printf '%s\\n' "${SRUN_CPUS_PER_TASK-unset}" > "$NOTES/$name.cpus"
code=CODE_$name
exit "${!code:-0}"
"""


@dataclass(frozen=True)
class Ran:
    code: int
    err: str
    notes: Path

    def words(self, program: str) -> list[str]:
        """What the program was called with; nothing if it was not."""
        path = self.notes / program
        return path.read_text().split("\n")[:-1] if path.exists() else []

    @property
    def cpus(self) -> str:
        return (self.notes / "srun.cpus").read_text().strip()


@pytest.fixture
def run(tmp_path: Path):
    programs, notes, venv = (tmp_path / name for name in ("programs", "notes", "venv"))
    for folder in (programs, notes, venv / "bin"):
        folder.mkdir(parents=True)
    (venv / "bin" / "activate").touch()
    for name in ("srun", "scontrol", "mpiexec", "sleep"):
        (programs / name).write_text(STAND_IN)
        (programs / name).chmod(0o755)

    def run_script(script: str, *arguments: str, **env: str) -> Ran:
        given = {"PATH": f"{programs}:/usr/bin:/bin", "NOTES": str(notes), "VENV": str(venv)}
        done = subprocess.run(
            [EXAMPLES / script, *arguments],
            env={**given, **env},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=20,
        )
        return Ran(done.returncode, done.stderr, notes)

    return run_script


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch):
    """The configuration that a command line `... pipeinfer generate ...` becomes."""
    seen: list[GenerateConfig] = []
    monkeypatch.setattr(start, "generate", lambda config: seen.append(config) or 0)

    def parse_words(words: list[str]) -> GenerateConfig:
        assert main.main(words[words.index("pipeinfer") + 1 :]) == 0
        return seen.pop()

    return parse_words


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_they_are_bash_that_can_be_called(script: Path) -> None:
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True, timeout=20)
    assert "set -euo pipefail" in script.read_text()


@pytest.mark.parametrize("script", ["slurm.sh", "slurm-batch.sh"])
def test_cpus_per_task_may_be_left_out(script: str, run) -> None:
    ran = run(script, SLURM_JOB_ID="7")
    assert (ran.code, ran.err, ran.cpus) == (0, "", "unset")
    assert run(script, SLURM_JOB_ID="7", SLURM_CPUS_PER_TASK="6").cpus == "6"


def test_one_text_on_slurm(run, parse) -> None:
    ran = run("slurm.sh", MODEL="/m.gguf", PROMPT="Say: hi", OPTIONS="-n 5", MPI_TYPE="pmix")
    assert "--mpi=pmix" in ran.words("srun")
    config = parse(ran.words("srun"))
    assert (config.model, config.prompt.text, config.n_predict) == ("/m.gguf", "Say: hi", 5)


def test_a_batch_is_resumed_and_has_a_socket_for_each_rank(run, parse) -> None:
    ran = run("slurm-batch.sh", SLURM_JOB_ID="7", PROMPTS="a b.jsonl", OUTPUT="out.jsonl")
    assert ran.code == 0
    assert "--cpu-bind=sockets" in ran.words("srun")
    config = parse(ran.words("srun"))
    assert isinstance(config, BatchConfig)
    assert (config.files.prompts, config.files.output) == ("a b.jsonl", "out.jsonl")
    assert config.files.resume
    assert config.report_binding
    asked = dict(sbatch_options("slurm-batch.sh"))
    assert asked["signal"] == "USR1@120"
    assert (asked["ntasks-per-node"], asked["ntasks-per-socket"]) == ("2", "1")
    assert {"exclusive", "requeue"} < set(asked)
    assert "cpus-per-task" not in asked


def test_a_rank_for_each_numa_node(run, parse) -> None:
    ran = run("slurm-numa.sh", MODEL="/m.gguf", OPTIONS="--no-mmap", SLURM_JOB_ID="7")
    assert (ran.code, ran.err) == (0, "")
    words = ran.words("srun")
    assert "--cpu-bind=ldoms" in words
    assert not [word for word in words if word.startswith("--mem-bind")]
    config = parse(words)
    assert (config.model, config.no_mmap, config.numa) == ("/m.gguf", True, "auto")
    asked = dict(sbatch_options("slurm-numa.sh"))
    assert (asked["ntasks-per-node"], asked["ntasks-per-socket"]) == ("2", "1")
    assert "cpus-per-task" not in asked


def sbatch_options(name: str) -> list[tuple[str, str]]:
    return re.findall(r"^#SBATCH --([a-z-]+)=?(\S*)$", script_text(name), re.MULTILINE)


def script_text(name: str) -> str:
    return (EXAMPLES / name).read_text()


def test_a_task_of_an_array_has_files_of_its_own(run, parse) -> None:
    ran = run("slurm-batch.sh", SLURM_JOB_ID="9", SLURM_ARRAY_TASK_ID="3")
    files = parse(ran.words("srun")).files
    assert (files.prompts, files.output) == ("prompts.3.jsonl", "answers.3.jsonl")


@pytest.mark.parametrize(
    ("code", "requeued"),
    [("0", []), ("1", []), ("2", []), ("75", ["requeue", "7"]), ("143", [])],
)
def test_only_what_was_interrupted_without_a_loss_is_queued_again(
    code: str, requeued: list[str], run
) -> None:
    ran = run("slurm-batch.sh", SLURM_JOB_ID="7", CODE_srun=code)
    assert ran.code == int(code)
    assert ran.words("scontrol") == requeued


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("node1\nnode2\n", "node1,node2"),
        ("# head\n  # indented\n\n  node1\n\t\nnode2", "node1,node2"),
        ("node1\r\n#\r\nnode2  # second\r\n", "node1,node2"),
        (script_text("hosts"), "node1,node2,node3"),
    ],
)
def test_hosts_are_those_that_no_comment_hides(
    text: str, names: str, run, parse, tmp_path: Path
) -> None:
    (tmp_path / "my hosts").write_text(text)
    ran = run("hosts.sh", "my hosts", "Say: hi", MODEL="/m.gguf")
    assert (ran.code, ran.err) == (0, "")
    words = ran.words("mpiexec")
    assert words[:4] == ["-hosts", names, "-n", str(names.count(",") + 1)]
    assert parse(words).prompt.text == "Say: hi"


def test_a_file_without_hosts_is_refused(run, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("  # nothing\n")
    ran = run("hosts.sh", "hosts", "hi")
    assert (ran.code, ran.err) == (2, "hosts names no host: give one per line\n")
    assert ran.words("mpiexec") == []


def test_pbs_has_a_rank_for_each_line(run, parse, tmp_path: Path) -> None:
    (tmp_path / "nodes").write_text("a\na\nb\n")
    ran = run("pbs.sh", PBS_NODEFILE="nodes", PROMPT="hi")
    words = ran.words("mpiexec")
    assert words[:4] == ["-f", "nodes", "-n", "3"]
    assert parse(words).prompt.text == "hi"
