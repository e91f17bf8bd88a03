"""The unpatched programs of llama.cpp: how they are called, and what they print, as figures."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from beside.contest import Measurement
from beside.process import (
    TIMEOUT_S,
    BenchmarkError,
    Output,
    background,
    free_port,
    run,
    wait_until_healthy,
)

NAMES = (
    "llama-completion",
    "llama-speculative-simple",
    "llama-lookup",
    "llama-server",
    "ggml-rpc-server",
)
NGRAM_TYPES = ("ngram-simple", "ngram-map-k", "ngram-map-k4v", "ngram-mod", "ngram-cache")
PROMPT = re.compile(r"prompt eval time = +([0-9.]+) ms / +(\d+) tokens")
EVAL = re.compile(r"(?<!prompt) eval time = +([0-9.]+) ms / +(\d+) runs")
SAMPLING = re.compile(r"sampling time = +([0-9.]+) ms")
DECODED = re.compile(r"decoded +(\d+) tokens in +([0-9.]+) seconds")
ACCEPTED = re.compile(r"n_drafted += (\d+)[\s\S]*?n_accept += (\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """How to call llama.cpp's programs."""

    folder: Path
    model: Path
    n_threads: int
    n_ctx: int = 1024

    def completion_command(self, prompt: str, n_predict: int, *more: str) -> list[str]:
        """llama-completion: plain decoding, greedy, past end-of-generation tokens."""
        options = ["-no-cnv", "--no-display-prompt", "--simple-io"]
        return [*self._command("llama-completion", prompt, n_predict), *options, *more]

    def speed(self, prompt: str, n_predict: int, *more: str) -> Measurement:
        """Tokens/s after the first token: evaluation and sampling."""
        output = run(self.completion_command(prompt, n_predict, *more))
        eval_ms, n_runs = _numbers(EVAL, output)
        (sampling_ms,) = _numbers(SAMPLING, output)
        return Measurement(
            value=1000 * n_runs / (eval_ms + sampling_ms),
            text=output.out,
            note=f"{1000 * n_runs / eval_ms:.2f} without sampling",
        )

    def prompt_speed(self, prompt: str) -> Measurement:
        """Tokens/s of the prompt."""
        output = run(self.completion_command(prompt, 2))
        prompt_ms, n_tokens = _numbers(PROMPT, output)
        return Measurement(value=1000 * n_tokens / prompt_ms, note=f"{n_tokens:.0f} tokens")

    def draft_speed(self, draft: Path, prompt: str, n_predict: int, *more: str) -> Measurement:
        """llama-speculative-simple with a draft model of as many threads."""
        options = ["-md", str(draft), "-td", str(self.n_threads), "--spec-type", "draft-simple"]
        return self._speculative("llama-speculative-simple", prompt, n_predict, [*options, *more])

    def ngram_speed(self, kind: str, prompt: str, n_predict: int) -> Measurement:
        """llama-speculative-simple with one of NGRAM_TYPES."""
        options = ["--spec-type", kind]
        return self._speculative("llama-speculative-simple", prompt, n_predict, options)

    def lookup_speed(self, prompt: str, n_predict: int, n_draft: int) -> Measurement:
        """llama-lookup with drafts of at most n_draft tokens."""
        options = ["--spec-draft-n-max", str(n_draft)]
        return self._speculative("llama-lookup", prompt, n_predict, options)

    def rpc_speed(self, prompt: str, n_predict: int, n_servers: int) -> Measurement:
        """llama-completion whose layers are on RPC servers of n_threads each."""
        ports = [free_port() for _ in range(n_servers)]
        server, threads = str(self.folder / "ggml-rpc-server"), str(self.n_threads)
        with ExitStack() as servers:
            for port in ports:
                command = [server, "-H", "127.0.0.1", "-p", str(port), "-t", threads]
                servers.enter_context(background(command, port))
            addresses = ",".join(f"127.0.0.1:{port}" for port in ports)
            return self.speed(prompt, n_predict, "--rpc", addresses, "-ngl", "999")

    def server_speed(self, prompts: Sequence[str], n_predict: int, n_parallel: int) -> Measurement:
        """Generated tokens over the time for all prompts: llama-server, n_parallel at once."""
        port = free_port()
        command = [
            *(str(self.folder / "llama-server"), "-m", str(self.model)),
            *("--host", "127.0.0.1", "--port", str(port), "-t", str(self.n_threads)),
            *("-np", str(n_parallel), "-c", str(n_parallel * self.n_ctx)),
        ]
        with background(command, port):
            wait_until_healthy(port)
            start_s = time.monotonic()
            with ThreadPoolExecutor(n_parallel) as pool:
                counts = list(pool.map(lambda text: _complete(port, text, n_predict), prompts))
            return Measurement(value=sum(counts) / (time.monotonic() - start_s))

    def _speculative(
        self, program: str, prompt: str, n_predict: int, options: Sequence[str]
    ) -> Measurement:
        output = run([*self._command(program, prompt, n_predict), *options])
        n_tokens, seconds = _numbers(DECODED, output)
        if not (found := ACCEPTED.search(output.out + output.err)):
            raise _unexpected(output, ACCEPTED)
        return Measurement(
            value=n_tokens / seconds,
            text=output.out.partition(prompt)[2],
            note=f"{found[2]}/{found[1]} accepted",
        )

    def _command(self, program: str, prompt: str, n_predict: int) -> list[str]:
        return [
            *(str(self.folder / program), "-m", str(self.model), "-p", prompt),
            *("-n", str(n_predict), "-c", str(self.n_ctx), "-t", str(self.n_threads)),
            *("--temp", "0", "--ignore-eos", "--perf"),
        ]


def check(folder: Path) -> None:
    """Raises BenchmarkError unless the programs are there."""
    missing = [name for name in NAMES if not (folder / name).is_file()]
    if missing:
        raise BenchmarkError(f"{folder} has no {missing[0]}: run `make upstream-tools`")


def _numbers(pattern: re.Pattern[str], output: Output) -> tuple[float, ...]:
    found = pattern.search(output.err) or pattern.search(output.out)
    if not found:
        raise _unexpected(output, pattern)
    return tuple(float(number) for number in found.groups())


def _unexpected(output: Output, pattern: re.Pattern[str]) -> BenchmarkError:
    return BenchmarkError(f"{output.command}: nothing printed matches {pattern.pattern!r}")


def _complete(port: int, prompt: str, n_predict: int) -> int:
    """Number of tokens that the server generated."""
    body = {"prompt": prompt, "n_predict": n_predict, "temperature": 0, "ignore_eos": True}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/completion",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        return int(json.load(answer)["tokens_predicted"])
