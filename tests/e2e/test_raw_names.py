"""File names that are not UTF-8: ranks start and end, and the file's own name is printed."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from jobs import END_S, Job, orphans
from small_models import talking_llama
from support import pipeinfer

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A target and a draft."""
    folder = tmp_path_factory.mktemp("names")
    names = [folder / os.fsdecode(name) for name in (b"m\xff.gguf", b"d\xff.gguf")]
    shutil.copy(talking_llama(names[0]), names[1])
    return names


def run(models, command, *more, env=None):
    target, draft = models
    done = subprocess.run(
        pipeinfer(command, "-m", str(target), "-md", str(draft), "-t", "1", "-c", "512", *more),
        capture_output=True,
        timeout=60,
        env={**os.environ, **(env or {})},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_alone_and_on_two_ranks_the_text_is_the_same(models):
    options = ("-n", "8", "--stats", "-v", "--strategy", "pipeinfer", "--format", "json", "hello")
    alone, two = (json.loads(run(models, "generate", "--ranks", n, *options)) for n in "12")
    assert alone["tokens"] == two["tokens"]


def test_a_closed_reader_ends_two_ranks(models, tmp_path):
    options = ("--ranks", "2", "-t", "1", "-c", "2048", "-n", "2000", "--ignore-eos", "hello")
    with Job(pipeinfer("generate", "-m", str(models[0]), *options), tmp_path) as job:
        job.await_text()
        job.process.stdout.close()
        assert job.process.wait(END_S) == 128 + signal.SIGPIPE
        assert job.process.stderr.read() == b""
        assert not orphans(tmp_path)


def test_what_names_the_model_can_be_printed(models, tmp_path):
    (tmp_path / "p.txt").write_text("hello")
    options = ("--ranks", "2", "-r", "1", "-n", "4", "-p", str(tmp_path / "p.txt"), "--no-warmup")
    rows = [json.loads(line) for line in run(models, "bench", *options, "-o", "jsonl").splitlines()]
    assert {row["model_filename"] for row in rows} == {str(models[0])}
    cache = {"PIPEINFER_CACHE": str(tmp_path)}
    kept = run(models, "bench", "--ranks", "2", "-r", "1", "--calibrate", env=cache)
    assert os.fsencode(models[0].stem) in kept
    assert Path(os.fsdecode(kept.rstrip(b"\n"))).exists()
    derived = tmp_path / os.fsdecode(b"k\xff.gguf")
    command = ("models", "derive", str(models[0]), "-o", str(derived), "--without", "1")
    done = subprocess.run(pipeinfer(*command), capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, os.fsencode(derived) + b"\n"), done.stderr
