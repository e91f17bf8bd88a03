"""The threads of a rank: those that compute, one team for each model, and a few that wait."""

import os
import random
import signal
import subprocess
import threading
from collections import Counter
from pathlib import Path

import pytest

from pipeinfer_cli.engine.config import DraftCores, EngineConfig
from pipeinfer_cli.engine.draft import DraftModel
from pipeinfer_cli.engine.engine import Engine
from pipeinfer_cli.engine.llama_cpp import capture_log
from pipeinfer_cli.scheduler.runs import DEFAULT_SAMPLE, Run, RunToken
from support import PROMPTS, pipeinfer, run_json, smollm2

pytestmark = pytest.mark.e2e

WAIT_S = 60


def threads_of(pid):
    """How many threads a process has, by name."""
    names = Path(f"/proc/{pid}/task").glob("*/comm")
    return Counter(path.read_text().strip() for path in names)


def while_it_writes(*arguments):
    """Threads of a one-rank job, and whether libgomp is there, once it has begun to write."""
    command = pipeinfer("generate", "-m", "smollm2", "--ranks", "1", "-n", "2000", "--ignore-eos")
    with subprocess.Popen(
        [*command, *arguments, "Once upon a time"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as job:
        assert job.stdout.read(1)
        found = threads_of(job.pid)
        libraries = Path(f"/proc/{job.pid}/maps").read_text()
        job.send_signal(signal.SIGINT)
        job.communicate(timeout=WAIT_S)
    return found, libraries


def test_a_stage_has_as_many_threads_as_asked_for():
    found, libraries = while_it_writes("-t", "3", "--strategy", "iterative")
    assert found == {"pi-compute": 3, "pipeinfer": found["pipeinfer"]}
    assert found["pipeinfer"] <= 2, "the head, and the watchdog"
    assert "libgomp" not in libraries


def test_a_draft_model_has_one_team_of_its_own():
    found, libraries = while_it_writes(
        "-t", "3", "-md", str(smollm2()), "--draft-threads", "4", "--strategy", "pipeinfer"
    )
    # the fourth is the head's own thread that drafts
    assert found == {"pi-compute": 3, "pi-draft": 3, "pipeinfer": found["pipeinfer"]}
    assert found["pipeinfer"] <= 3
    assert "libgomp" not in libraries


def test_by_default_a_draft_model_takes_turns_with_the_layers_of_all_cores():
    """What is drafted while a lone stage computes would cost its time: one run at a time."""
    shown, _ = run_json(
        pipeinfer(
            *("generate", "-m", "smollm2", "--ranks", "1", "-t", str(os.cpu_count())),
            *("-n", "24", "-c", "256", "-md", "smollm2", "--strategy", "pipeinfer"),
            *("--verify", "--format", "json", "--draft-max", "4", "-pa", "0", PROMPTS[1]),
        ),
        timeout_s=WAIT_S,
    )
    assert shown["stats"]["mean_in_flight"] == 1
    assert shown["stats"]["n_accepted"] > 0
    assert shown["stats"]["n_late"] == 0, "nothing is decided while it drafts"


@pytest.mark.parametrize("shares_cores", [False, True])
def test_a_stage_and_a_draft_model_compute_side_by_side(shares_cores):
    """From two threads, in pieces of random sizes: each gets what it gets alone."""
    capture_log()
    n_tokens = 120
    cores = DraftCores(n_threads=2, shares_cores=shares_cores)
    config = EngineConfig(
        model_path=smollm2(),
        layer_first=0,
        layer_last=30,
        n_ctx=512,
        n_cells=512,
        n_batch=32,
        n_threads=2,
        shares_cores=shares_cores,
    )
    draft = DraftModel(smollm2(), n_ctx=512, n_cells=512, n_batch=32, cores=cores)
    found = {}

    def feed(text):
        rng, done = random.Random(1), 0
        while done < len(text):
            piece = enumerate(text[done : done + rng.randint(1, 4)], done)
            tokens = tuple(RunToken(id=token, position=p, want=True) for p, token in piece)
            rows = draft.expand(Run(run_id=1, tokens=tokens), draft.n_vocab, DEFAULT_SAMPLE)
            done += len(tokens)
        found["draft"] = rows[-1][0][0]

    text = [random.Random(2).randrange(100, 40000) for _ in range(n_tokens)]
    with Engine(config) as engine:
        drafter = threading.Thread(target=feed, args=(text,))
        drafter.start()
        for position, token in enumerate(text):
            run_token = RunToken(id=token, position=position, seq_ids=(0,), want=True)
            engine.submit(Run(run_id=position + 1, tokens=(run_token,)))
            result = engine.wait(WAIT_S)
            assert result.run_id == position + 1
        drafter.join(WAIT_S)
        assert not drafter.is_alive()
        assert found["draft"] == result.rows[0]
    draft.close()
