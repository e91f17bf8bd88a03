"""What `pipeinfer` prints, as figures."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beside import models
from beside.contest import Measurement
from beside.process import BenchmarkError, Output, run

BATCH_SPEED = re.compile(r"([0-9.]+) tokens/s, [0-9.]+ items/s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """How to call `pipeinfer generate`."""

    program: str
    model: Path
    n_threads: int
    n_ranks: int = 1
    n_ctx: int = 1024

    def command(self, n_predict: int, *more: str) -> list[str]:
        """A call with these options; greedy, past end-of-generation tokens."""
        return [
            *(self.program, "generate", "-m", str(self.model), "--ignore-eos"),
            *("--ranks", str(self.n_ranks), "-t", str(self.n_threads)),
            *("-c", str(self.n_ctx), "-n", str(n_predict), *more),
        ]

    def speed(self, prompt: str, n_predict: int, options: Sequence[str]) -> Measurement:
        """Tokens/s after the first token."""
        answer, stats = self._answer(prompt, n_predict, options)
        lengths = models.token_lengths(models.smollm2(self.program))
        drafted = stats["n_drafted"]
        return Measurement(
            value=stats["tokens_per_s"],
            text=answer["text"],
            token_bytes=tuple(lengths[token] for token in answer["tokens"]),
            note=f"{stats['n_accepted']}/{drafted} accepted" if drafted else "",
        )

    def prompt_speed(self, prompt: str) -> Measurement:
        """Tokens of the prompt over the time to the first token."""
        _, stats = self._answer(prompt, 2, ["--strategy", "iterative", "--drafter", "none"])
        return Measurement(
            value=1000 * stats["n_prompt"] / stats["ttft_ms"], note=f"{stats['n_prompt']} tokens"
        )

    def batch_speed(self, prompts: Sequence[str], n_predict: int, n_parallel: int) -> Measurement:
        """Generated tokens over the time for all prompts."""
        with tempfile.TemporaryDirectory(prefix="beside-") as folder:
            source, results = Path(folder) / "in.jsonl", Path(folder) / "out.jsonl"
            source.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in prompts))
            files = ["--prompts", str(source), "--output", str(results), "--stats"]
            options = ["--strategy", "iterative", "--parallel", str(n_parallel)]
            output = run(self.command(n_predict, *files, *options))
        found = BATCH_SPEED.findall(output.err)
        if not found:
            raise _unexpected(output, "no line with tokens/s and items/s on stderr")
        return Measurement(value=float(found[-1]))

    def _answer(
        self, prompt: str, n_predict: int, options: Sequence[str]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        output = run(self.command(n_predict, "--format", "json", *options, "--", prompt))
        try:
            answer = json.loads(output.out)
            return answer, answer["stats"]
        except (ValueError, KeyError) as error:
            raise _unexpected(output, f"stdout is not an answer in JSON ({error})") from None


def _unexpected(output: Output, what: str) -> BenchmarkError:
    return BenchmarkError(f"{output.command}: {what}")
