"""Tries odd GGUFs, each in a process of its own.

    python tests/helpers/take_ggufs.py [NAME ...]

Each is taken as the target of `pipeinfer generate`, and some as the draft. That must end with exit
code 0, or with one line and exit code 2. Prints what came of each.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from odd_ggufs import corpus
from raw_gguf import bpe_vocab, model

CASE_S = 20
MEMORY_BYTES = 6 << 30
DRAFT_EVERY = 8  # files are tried as drafts, too


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a process ended."""

    code: int  # negative: minus the signal that killed it
    said: str  # on stderr

    @property
    def fault(self) -> str:
        """What is wrong with it; empty if nothing is."""
        errors = [
            line for line in self.said.splitlines() if not line.startswith("pipeinfer: note: ")
        ]
        if self.code == 0:
            return "" if not errors else f"exit code 0, but {errors[0]!r}"
        if self.code != 2:
            return f"exit code {self.code}: {self.said[-300:]!r}"
        if len(errors) != 1 or not errors[0].startswith("pipeinfer: error: "):
            return f"{len(errors)} lines: {self.said[-300:]!r}"
        is_bug = errors[0].startswith("pipeinfer: error: unexpected ")
        return f"not for people: {errors[0]!r}" if is_bug else ""


def run(arguments: list[str], folder: Path) -> Outcome:
    """`pipeinfer` in a fork of this process."""
    said = folder / "stderr"
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            _child(arguments, said)
        os._exit(97)
    deadline_s = time.monotonic() + CASE_S
    while not (ended := os.waitpid(pid, os.WNOHANG))[0] and time.monotonic() < deadline_s:
        time.sleep(0.002)
    if not ended[0]:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return Outcome(code=-signal.SIGKILL, said=f"still running after {CASE_S} s")
    code = os.waitstatus_to_exitcode(ended[1])
    return Outcome(code=code, said=said.read_text(errors="replace"))


def _child(arguments: list[str], said: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    from pipeinfer_cli.cli.main import main as command

    code = command(arguments)
    sys.stderr.flush()
    os._exit(code)


def take(names: list[str]) -> Iterator[tuple[str, str, Outcome]]:
    """Name, role (target or draft) and what came of it."""
    from pipeinfer_cli.commands import generate, start  # noqa: F401 (once, before the forks)
    from pipeinfer_cli.engine import abi

    abi.load()
    files = corpus()
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        sound = model(bpe_vocab()).write(folder / "sound.gguf")
        for index, name in enumerate(names):
            odd = folder / "odd.gguf"
            odd.write_bytes(files[name]())
            chat = ["--chat"] if name.startswith("template") else []
            yield name, "target", run([*_command(odd), *chat, "hello q\n<|user|>"], folder)
            if index % DRAFT_EVERY == 0:
                drafted = ["-md", str(odd), "--strategy", "pipeinfer", "hello"]
                yield name, "draft", run([*_command(sound), *drafted], folder)


def _command(target: Path) -> list[str]:
    return ["generate", "-m", str(target), "--ranks", "1", "-n", "3", "-c", "64", "-t", "1"]


def main() -> None:
    for name, role, outcome in take(sys.argv[1:] or list(corpus())):
        fields = {"code": outcome.code, "said": outcome.said, "fault": outcome.fault}
        print(json.dumps({"name": name, "role": role, **fields}), flush=True)


if __name__ == "__main__":
    main()
