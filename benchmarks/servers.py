"""Processes that measure when they are told to: in turn, in short bursts, one waits for the other.

So what else the machine does strikes all of them alike, and none disturbs the one that measures.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

READY = "ready"


class Server:
    """A process: `python SCRIPT ARGUMENTS`, with the libllama of a folder."""

    def __init__(self, script: str, *arguments: object, lib_dir: Path, **env: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, script, *map(str, arguments)],
            env={**os.environ, "LLAMA_CPP_LIB_PATH": str(lib_dir), **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._label = f"{arguments} with {lib_dir}"
        if self._answer() != READY:
            raise RuntimeError(f"{self._label}: not ready")

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def measure(self, n_tokens: int) -> float:
        """What `serve` of that process answers."""
        assert self._process.stdin
        self._process.stdin.write(f"{n_tokens}\n")
        self._process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> str:
        assert self._process.stdout
        if not (line := self._process.stdout.readline()):
            raise RuntimeError(f"{self._label}: ended with code {self._process.wait()}")
        return line.strip()


def serve(measure: Callable[[int], float]) -> None:
    """In the process: reads numbers of tokens by line, answers with what `measure` returns."""
    print(READY, flush=True)
    for line in sys.stdin:
        print(measure(int(line)), flush=True)


def load_llama() -> Any:
    """llama-cpp-python's bindings to this process's libllama, silent and initialized."""
    import llama_cpp.llama_cpp as llama

    llama.llama_log_set(_quiet(llama), None)
    llama.llama_backend_init()
    return llama


def open_context(
    llama: Any, path: str, *, n_threads: int, n_ctx: int, n_run: int | None = None
) -> Any:
    """A context of a model; `n_run`: most tokens computed at once, llama.cpp's default if None."""
    model = llama.llama_model_load_from_file(os.fsencode(path), llama.llama_model_default_params())
    assert model, path
    params = llama.llama_context_default_params()
    params.n_ctx = n_ctx
    if n_run is not None:
        params.n_batch, params.n_ubatch = n_ctx, n_run
    params.n_threads = params.n_threads_batch = n_threads
    params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_ENABLED
    return llama.llama_init_from_model(model, params)


@cache
def _quiet(llama: Any) -> Any:
    return llama.llama_log_callback(lambda level, text, data: None)
