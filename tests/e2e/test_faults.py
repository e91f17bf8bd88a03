"""Whatever goes wrong: one clear line, the right exit code, no orphan, in time."""

import os
import signal
import socket
from pathlib import Path

import pytest

from jobs import END_S, Job, orphans
from support import mpiexec, pipeinfer, run, smollm2, tiny_model

pytestmark = pytest.mark.e2e

ENDLESS = ["-n", "3000", "-c", "3500", "-t", "1", "--ignore-eos"]


def assert_refused(done, *words):
    """Bad input: exit code 2 and one line on stderr that has these words."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("pipeinfer: error: ")
    for word in words:
        assert word in line


@pytest.mark.parametrize("ranks", ["1", "3"])
class TestBadInput:
    def generate(self, model, ranks, *more):
        return run(pipeinfer("generate", "-m", str(model), "--ranks", ranks, *more, "Hello"))

    def test_missing_file(self, ranks, tmp_path):
        assert_refused(self.generate(tmp_path / "no.gguf", ranks), "no.gguf")

    def test_unknown_name(self, ranks):
        assert_refused(self.generate("smollm3000", ranks), "smollm3000", "models list")

    def test_no_gguf(self, ranks, tmp_path):
        (tmp_path / "text.gguf").write_text("no model at all")
        assert_refused(self.generate(tmp_path / "text.gguf", ranks), "not a GGUF", "text.gguf")

    def test_empty_file(self, ranks, tmp_path):
        (tmp_path / "empty.gguf").touch()
        assert_refused(self.generate(tmp_path / "empty.gguf", ranks), "not a GGUF", "empty.gguf")

    def test_folder(self, ranks, tmp_path):
        assert_refused(self.generate(tmp_path, ranks), str(tmp_path))

    @pytest.mark.parametrize("size", [100, 1_000_000, 50_000_000])
    def test_truncated(self, ranks, tmp_path, size):
        with smollm2().open("rb") as whole:
            (tmp_path / "cut.gguf").write_bytes(whole.read(size))
        assert_refused(self.generate(tmp_path / "cut.gguf", ranks), "cut.gguf")

    def test_unsupported_architecture(self, ranks, tmp_path):
        whole, split = ("nonesuch", "rwkv6")  # unknown to llama.cpp; known, but not to be split
        arch = whole if ranks == "1" else split
        model = tiny_model(tmp_path / "odd.gguf", arch, n_layer=4)
        assert_refused(self.generate(model, ranks), "odd.gguf" if ranks == "1" else split)

    def test_context_too_small(self, ranks):
        assert_refused(self.generate("smollm2", ranks, "-c", "1"), "1 tokens", "-c/--ctx-size")

    def test_more_weights_than_ranks(self, ranks):
        assert_refused(self.generate("smollm2", ranks, "--layer-split", "1,1"), "--layer-split")


def test_more_stages_than_layers(tmp_path):
    model = tiny_model(tmp_path / "tiny.gguf")
    done = run(pipeinfer("generate", "-m", str(model), "--ranks", "3", "Hello"))
    assert_refused(done, "3 stages", "2 layers", "at most 2 ranks")


def test_errors_under_a_launcher_are_said_once(tmp_path):
    done = run(mpiexec(3, "generate", "-m", str(tmp_path / "no.gguf"), "Hello"))
    assert done.returncode == 2
    assert done.stderr.count("pipeinfer: error: ") == 1


def test_a_rank_that_cannot_load_is_named(tmp_path):
    """The header promises what the file does not have: llama.cpp finds out, on every rank."""
    model = tiny_model(tmp_path / "hollow.gguf")
    done = run(pipeinfer("generate", "-m", str(model), "--ranks", "2", "Hello"))
    assert done.returncode in (1, 2)
    (line,) = done.stderr.splitlines()
    assert line.startswith("pipeinfer: error: ")


def endless(tmp_path, ranks=3):
    """A generation on local ranks that would go on for a long time."""
    command = pipeinfer("generate", "-m", str(smollm2()), "--ranks", str(ranks), *ENDLESS, "Once")
    return Job(command, tmp_path)


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("moment", ["load", "decode"])
def test_a_killed_rank_ends_the_job(rank, moment, tmp_path):
    job = endless(tmp_path)
    pid = job.rank_pid(rank)
    if moment == "decode":
        job.await_text()
    os.kill(pid, signal.SIGKILL)
    code, _, lines = job.end()
    assert code == 1
    assert len(lines) == 1
    assert lines[0].startswith("pipeinfer: error: ")
    assert f"rank {rank}" in lines[0]
    assert "SIGKILL" in lines[0]


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
@pytest.mark.parametrize("ranks", [1, 3])
def test_a_signal_ends_the_job_and_keeps_the_text(signum, code, ranks, tmp_path):
    job = endless(tmp_path, ranks)
    job.await_text()
    job.process.send_signal(signum)
    ended, out, lines = job.end()
    assert ended == code
    assert out
    assert len(lines) == 1
    assert signum.name in lines[0]


def test_a_killed_parent_leaves_no_ranks_and_no_shared_memory(tmp_path):
    job = endless(tmp_path)
    job.await_text()
    job.note_shared_memory()
    job.process.kill()
    job.end()


def test_a_closed_reader_ends_the_job_quietly(tmp_path):
    job = endless(tmp_path)
    job.await_text()
    with job.process.stderr as stderr:
        job.process.stdout.close()
        assert job.process.wait(END_S) == 128 + signal.SIGPIPE
        assert stderr.read() == b""
    assert not orphans(tmp_path)


def test_the_log_has_what_each_rank_did(tmp_path):
    template = tmp_path / "run-{rank}.log"
    options = ("--ranks", "2", "-n", "2", "-t", "1", "--log-file", str(template))
    done = run(pipeinfer("generate", "-m", "smollm2", *options, "Hello"))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    logs = [Path(str(template).replace("{rank}", str(rank))).read_text() for rank in (0, 1)]
    for rank, log in enumerate(logs):
        for line in log.splitlines():
            assert f" rank {rank} {socket.gethostname()} " in line
        assert "loaded in " in log
        assert "ended with exit code 0" in log
    assert "rank 1 on" in logs[0]
    assert "MB of tensors" in logs[0]


def test_what_llama_cpp_says_goes_to_the_log(tmp_path):
    model = tiny_model(tmp_path / "hollow.gguf")
    log = tmp_path / "log"
    options = ("--ranks", "2", "--log-file", str(log))
    done = run(pipeinfer("generate", "-m", str(model), *options, "Hello"))
    assert done.returncode in (1, 2)
    assert " ERROR llama.cpp: " in log.read_text()
