"""What several tests need: the model, the prompts, the oracle, and ranks to run programs on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np

import reference_answers
from pipeinfer_cli.launch.environment import Launcher
from pipeinfer_cli.launch.host import mpi_choice
from pipeinfer_cli.models import resolve
from random_gguf import write

TESTS = Path(__file__).parents[1]
PROMPTS = (TESTS / "prompts.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n---\n")
REFERENCE_LIB = Path(
    os.environ.get("PIPEINFER_REFERENCE_LIB", TESTS.parent / "build" / "reference" / "bin")
)

IS_WHOLE = bool(os.environ.get("TEST_MATRIX"))  # all combinations: make test-matrix
TIMEOUT_S = 1000.0 if IS_WHOLE else 100.0  # of a job


@cache
def smollm2() -> Path:
    """The GGUF of SmolLM2-135M-Instruct (Q4_1, 30 layers), fetched if it is not in the cache."""
    return resolve.resolve("smollm2")


def plain_decode(request: dict[str, Any]) -> Any:
    """The answer of oracle.py: the unpatched llama.cpp, one process, one token at a time."""
    assert (REFERENCE_LIB / "libllama.so").exists(), (
        f"no unpatched llama.cpp in {REFERENCE_LIB}: run `make reference`"
    )
    command = [sys.executable, str(TESTS / "helpers" / "oracle.py"), json.dumps(request)]
    env = {**os.environ, "LLAMA_CPP_LIB_PATH": str(REFERENCE_LIB)}
    return reference_answers.answer(
        request, REFERENCE_LIB, lambda: json.loads(check_output(command, env=env))
    )


def smollm2_request(prompts: list[list[int]], n_predict: int, n_ctx: int) -> dict[str, Any]:
    """SmolLM2 continues these token ids: for the oracle, and for programs of tests/mpi."""
    return {"model": str(smollm2()), "prompts": prompts, "n_predict": n_predict, "n_ctx": n_ctx}


def smollm2_args(*more: str, n_predict: int = 24) -> list[str]:
    """Arguments of the installed command: a short text of SmolLM2 with one thread a rank."""
    return ["generate", "-m", "smollm2", "-n", str(n_predict), "-c", "256", "-t", "1", *more]


def run_ranks(ranks: int, program: str, request: Any, *, timeout_s: float = TIMEOUT_S) -> Any:
    """Runs tests/mpi/<program> on the ranks; returns the JSON that rank 0 prints last."""
    launcher = Launcher.of(mpi_choice.choose())
    command = launcher.command(
        ranks, [sys.executable, str(TESTS / "mpi" / program), json.dumps(request)]
    )
    return json.loads(check_output(command, timeout_s=timeout_s).splitlines()[-1])


def run(
    command: list[str], *, timeout_s: float = 60.0, **more: Any
) -> subprocess.CompletedProcess[str]:
    """The ended command with its exit code, stdout and stderr."""
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, **more)


def run_json(command: list[str], *, timeout_s: float = 60.0) -> tuple[Any, str]:
    """The JSON that the command prints, and its stderr; a failure shows that."""
    done = run(command, timeout_s=timeout_s)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def check_output(
    command: list[str], *, timeout_s: float = TIMEOUT_S, env: dict[str, str] | None = None
) -> str:
    """The command's stdout; a failure shows its stderr."""
    done = run(command, timeout_s=timeout_s, env=env)
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-3000:]}"
    return done.stdout


def pipeinfer(*args: str) -> list[str]:
    """The installed command."""
    return [str(Path(sys.executable).with_name("pipeinfer")), *args]


def mpiexec(ranks: int, *args: str) -> list[str]:
    """The installed command under the launcher, as a user would start it."""
    return Launcher.of(mpi_choice.choose()).command(ranks, pipeinfer(*args))


def tiny_model(path: Path, arch: str = "llama", n_layer: int = 2) -> Path:
    """A GGUF that has a header like a model's, and hardly any tensors."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(n_layer)
    writer.add_embedding_length(64)
    writer.add_context_length(128)
    writer.add_token_list([f"t{i}" for i in range(10)])
    for layer in range(n_layer):
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", np.zeros(64, dtype=np.float32))
    write(writer)
    return path
