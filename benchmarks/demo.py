"""`make demo`: a real model on three ranks, then an emulated cluster, and what to do next.

    python benchmarks/demo.py BIN FOLDER PROMPT

BIN has the commands of the virtual environment; FOLDER is for a model and a picture. The exit code
is that of the first command that fails.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tiny

MODEL, RANKS, N_PREDICT = "smollm2", 3, 64
PROFILE, ACCEPTANCE = "cpu70b-8-gbe", "0.8"
EMULATED = ("--emulate", PROFILE, "--synth-acceptance", ACCEPTANCE, "-t", "1", "-n", "40")
N_LAYER = 16  # of the model that stands in for the one of 70B: at least as many as there are stages
STRATEGIES = {  # and what they are in words
    "iterative": "plain, one token after another",
    "speculative": "synchronous speculation",
    "pipeinfer": "pipelined speculation",
}
SPEED = re.compile(r"(\d+) tokens, ([\d.]+) tok/s")


class Demo:
    """The parts. SystemExit where a command fails."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self._folder = folder

    def generate(self, prompt: str) -> Path:
        """A text of the real model, as it comes, and whether it is right; the model's file."""
        path = self.run("models", "pull", MODEL, stdout=subprocess.PIPE).stdout.strip()
        options = ["-m", MODEL, "--ranks", str(RANKS), "-n", str(N_PREDICT), "--stats", "--verify"]
        say(f"\nSmolLM2-135M, its layers split over {RANKS} processes of this machine:\n")
        say(f"  {shlex.join(['pipeinfer', 'generate', *options, prompt])}\n")
        print(prompt, end="", flush=True)
        said = self.run("generate", *options, prompt, stderr=subprocess.PIPE).stderr
        speed = SPEED.search(said)
        assert speed is not None and "verified" in said, said
        say(
            f"\n{speed[1]} tokens, {speed[2]} tokens/s here; verified: they are those of plain "
            "decoding, one token after another."
        )
        return Path(path)

    def emulate(self, source: Path) -> None:
        """Three strategies on a cluster that is not there; `source` has the vocabulary."""
        self._folder.mkdir(parents=True, exist_ok=True)
        model, picture = self._folder / "tiny.gguf", self._folder / "pipeline.svg"
        if not model.exists():
            tiny.main(source, model, N_LAYER)
        say(
            f"\nAn emulated cluster ({PROFILE}): 8 nodes with a model of 70B, Gigabit Ethernet.\n"
            "Nodes and links take the times of a profile; messages, scheduling and cancels are\n"
            f"real. Drafts are drawn: {float(ACCEPTANCE):.0%} are right.\n"
        )
        plain_tps, n_late = 0.0, 0
        for strategy, words in STRATEGIES.items():
            draws = ["--plot", str(picture)] if strategy == "pipeinfer" else []
            answer = self.answer("-m", str(model), *EMULATED, "--strategy", strategy, *draws)
            speed = answer["stats"]["tokens_per_s"]
            plain_tps = plain_tps or speed
            n_late += answer["emulation"]["n_late"]
            say(f"  {words:<32}{speed:5.1f} tokens/s{speed / plain_tps:6.1f} x   (emulated)")
        if n_late:
            say(f"\nThis machine was too slow for {n_late} computations: alone it would show more.")
        say(f"\nWhat the emulated nodes did in the last one: {picture}")

    def answer(self, *options: str) -> dict[str, Any]:
        """What `generate` gives as JSON."""
        command = ("generate", *options, "--format", "json", "Hello")
        done = self.run(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def run(
        self, *command: str, stdout: int | None = None, stderr: int | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs pipeinfer."""
        program = self._programs / "pipeinfer"
        done = subprocess.run(
            [program, *command], stdout=stdout, stderr=stderr, text=True, check=False
        )
        if done.returncode != 0:
            sys.stderr.write(done.stderr or "")
            raise SystemExit(done.returncode)
        return done


def say(text: str) -> None:
    """Prints it at once."""
    print(text, flush=True)


def what_next(programs: Path) -> str:
    """Commands to go on with."""
    commands = (
        (f". {programs}/activate", ""),
        ('pipeinfer generate -m smollm2 "Once upon a time"', "your own prompts and models"),
        ("pipeinfer chat -m smollm2", "a conversation"),
        ("pipeinfer bench -m smollm2 --ranks 2", "does speculation pay on this machine?"),
        ("pipeinfer doctor", "what is installed, and what a cluster has"),
        ("docs/cluster.md", "several nodes, by mpiexec or srun"),
    )
    lines = [f"  {command:<52}{words}".rstrip() for command, words in commands]
    return "\n".join(["\nWhat next:", *lines])


def main(arguments: Sequence[str]) -> None:
    """All of it."""
    programs, folder, prompt = Path(arguments[0]), Path(arguments[1]), arguments[2]
    demo = Demo(programs, folder)
    demo.emulate(demo.generate(prompt))
    say(what_next(programs))


if __name__ == "__main__":
    main(sys.argv[1:])
