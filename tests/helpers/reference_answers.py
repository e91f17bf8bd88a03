"""What the unpatched llama.cpp answered, kept on disk: it need not be asked twice.

A key holds everything an answer depends on: the program and its helpers, the request, the contents
of the model, the libraries, the versions of their Python side, and this machine's instructions.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

HELPERS = Path(__file__).parent
FOLDER = HELPERS.parents[1] / "build" / "oracles"
CHUNK_BYTES = 1 << 20
PROGRAMS = ("oracle.py", "plain_sampling.py")
PACKAGES = ("llama_cpp_python", "llguidance", "numpy")


def answer(request: dict[str, Any], lib_dir: Path, ask: Callable[[], Any]) -> Any:
    """What `ask` returns for the request, or what it returned when everything was the same."""
    if "-of-" in Path(request["model"]).name:  # one file of several
        return ask()
    path = FOLDER / f"{key(request, lib_dir)}.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        found = ask()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=FOLDER, prefix=".", delete=False) as part:
        json.dump(found, part)
    os.replace(part.name, path)  # noqa: PTH105
    return found


def key(request: dict[str, Any], lib_dir: Path) -> str:
    """The hash of everything the answer depends on."""
    parts = {
        "request": {**request, **digests(request)},
        "libraries": {path.name: digest(path) for path in sorted(lib_dir.glob("*.so*"))},
        "programs": [digest(HELPERS / name) for name in PROGRAMS],
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "cpu": cpu(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def digests(request: dict[str, Any]) -> dict[str, Any]:
    """The request's files, by their contents."""
    adapters = [[digest(Path(path)), scale] for path, scale in request.get("adapters", [])]
    return {"model": digest(Path(request["model"])), **({"adapters": adapters} if adapters else {})}


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    stat = path.stat()
    return _digest(path, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@cache
def _digest(path: Path, *_state: int) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            found.update(chunk)
    return found.hexdigest()


@cache
def cpu() -> str:
    """The instructions of this machine: numpy and ggml choose among them when they run."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.platform()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
