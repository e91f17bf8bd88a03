"""How long it takes from nothing to the first token on three ranks: source, sdist and wheels.

python benchmarks/install.py --source . --sdist dist --wheels dist

The source is a fresh clone in which `make build` runs, the sdist is what pip builds from, both
without a compiler's cache. All take what they depend on from the package index, or pip's cache;
the model is in pipeinfer's cache.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

# For pip: llama-cpp-python without a llama.cpp of its own.
NO_LLAMA_BUILD = {"CMAKE_ARGS": "-DLLAMA_BUILD=OFF -DLLAVA_BUILD=OFF"}
GENERATE = ("generate", "-m", "smollm2", "-n", "1", "-t", "1", "--ranks", "3", "Once upon a time")


def seconds(command: Sequence[str | Path], folder: Path, **variables: str) -> float:
    """Of a command with these variables; ends this program if it fails."""
    start_s = time.perf_counter()
    done = subprocess.run(
        [str(each) for each in command],
        cwd=folder,
        env={**os.environ, "CCACHE_DISABLE": "1", **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode != 0:
        sys.exit(f"{command[0]}: exit code {done.returncode}: {done.stderr[-2000:]}")
    return time.perf_counter() - start_s


def by_source(source: Path, folder: Path) -> Iterator[tuple[str, float]]:
    yield "git clone", seconds(["git", "clone", "--quiet", source, folder / "clone"], folder)
    yield "make build", seconds(["make", "build"], folder / "clone")
    program = folder / "clone" / ".venv" / "bin" / "pipeinfer"
    yield "the first token", seconds([program, *GENERATE], folder)


def by_sdist(dist: Path, folder: Path) -> Iterator[tuple[str, float]]:
    # Its own wheels only: pip's cache would hand the one without libraries to others.
    files = sorted(dist.glob("pipeinfer-*.tar.gz"))
    yield from by_pip(("install", "--no-cache-dir", *files), folder, **NO_LLAMA_BUILD)


def by_wheels(dist: Path, folder: Path) -> Iterator[tuple[str, float]]:
    yield from by_pip(("install", *sorted(dist.glob("*.whl"))), folder)


def by_pip(
    pip_install: Sequence[str | Path], folder: Path, **variables: str
) -> Iterator[tuple[str, float]]:
    venv = folder / "venv"
    yield "python -m venv", seconds([sys.executable, "-m", "venv", venv], folder)
    yield "pip install", seconds([venv / "bin" / "pip", *pip_install], folder, **variables)
    yield "the first token", seconds([venv / "bin" / "pipeinfer", *GENERATE], folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--source", type=Path, help="a checkout")
    parser.add_argument("--sdist", type=Path, help="a folder with the sdist")
    parser.add_argument("--wheels", type=Path, help="a folder with the wheels")
    args = parser.parse_args()
    for name, path, steps in (
        ("source", args.source, by_source),
        ("sdist", args.sdist, by_sdist),
        ("wheels", args.wheels, by_wheels),
    ):
        if path is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            parts = list(steps(path.resolve(), Path(folder)))
        total_s = sum(each_s for _, each_s in parts)
        text = ", ".join(f"{step} {each_s:.1f}" for step, each_s in parts)
        print(f"{name}: {total_s:.1f} s ({text})", flush=True)


if __name__ == "__main__":
    main()
