"""Batches of prompts for tests: items, the command, and ends at random."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from support import pipeinfer

WAIT_S = 120.0
END_S = 10.0  # from a kill to the end of the last process
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def items(n: int, n_predict: int) -> list[dict[str, Any]]:
    """Short prompts of several lengths; every 17th item is bad."""
    draw = random.Random(n)
    made: list[dict[str, Any]] = []
    for index in range(n):
        words = ["".join(draw.choices("abcdefgh é", k=4)) for _ in range(draw.randint(1, 6))]
        item = {"id": f"item {index}", "prompt": " ".join(words)}
        item["n_predict" if index % 17 else "bogus"] = draw.randint(1, n_predict)
        made.append(item)
    return made


def write_items(path: Path, made: list[Any]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in made))
    return path


def options(model: Path | str, prompts: Path, output: Path, *more: str) -> list[str]:
    files = ("--prompts", str(prompts), "--output", str(output))
    return ["generate", "-m", str(model), *files, "-c", "256", "-t", "1", "--ignore-eos", *more]


class Leg:
    """A job on a batch, on two local ranks, that is going to be killed."""

    def __init__(
        self, model: Path | str, prompts: Path, output: Path, temp: Path, *more: str
    ) -> None:
        self.output, self.temp = output, temp
        command = pipeinfer(*options(model, prompts, output, "--ranks", "2", "--resume", *more))
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(temp)}
        )

    def await_lines(self, n_lines: int) -> None:
        """Returns when there are that many, or the job has ended."""
        deadline_s = time.monotonic() + WAIT_S
        while self.process.poll() is None and count_lines(self.output) < n_lines:
            assert time.monotonic() < deadline_s, "no line in time"
            time.sleep(0.002)

    def kill(self, whom: str, signum: int) -> None:
        """A signal to `parent`, or to `rank 0`, `rank 1` as soon as it has started."""
        if whom == "parent":
            self.process.send_signal(signum)
            return
        deadline_s = time.monotonic() + WAIT_S
        while self.process.poll() is None:
            # a killed parent leaves its folder: only one of these lives
            files = self.temp.glob(f"*/{whom.replace(' ', '-')}.pid")
            pids = {int(text) for file in files if (text := file.read_text())}
            for pid in pids & set(living(self.temp)):
                os.kill(pid, signum)
                return
            assert time.monotonic() < deadline_s, f"no {whom} in time"
            time.sleep(0.01)

    def end(self) -> tuple[int, str]:
        """Exit code and stderr."""
        _, said = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, said


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def living(temp: Path) -> list[int]:
    """The job's processes: they have its folder in their environment."""
    marker = f"TMPDIR={temp}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            found += [int(entry.parent.name)] if marker in entry.read_bytes().split(b"\0") else []
        except OSError:
            continue
    return found


def await_gone(temp: Path) -> None:
    deadline_s = time.monotonic() + END_S
    while living(temp):
        assert time.monotonic() < deadline_s, living(temp)
        time.sleep(0.05)
