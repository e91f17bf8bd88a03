#!/usr/bin/env python3
"""Let `import llama_cpp` find our libraries, where llama-cpp-python was installed without its own.

Links them into its folder lib/. Libraries that it has itself stay as they are.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from pipeinfer_cli.engine.build_info import LIB_DIR

NAMES = ("libllama*.so", "libggml*.so")


def link(source: Path, target: Path) -> list[str]:
    """Links the libraries of one folder into another; the names of those that it has now."""
    if any(not path.is_symlink() for name in NAMES for path in target.glob(name)):
        return []
    target.mkdir(exist_ok=True)
    libraries = sorted(path for name in NAMES for path in source.glob(name))
    for library in libraries:
        link = target / library.name
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(library, target))
    return [library.name for library in libraries]


def main() -> int:
    """Exit code 1 where llama-cpp-python is not installed."""
    spec = find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        print("link_bindings: llama-cpp-python is not installed", file=sys.stderr)
        return 1
    link(LIB_DIR, Path(spec.origin).parent / "lib")
    return 0


if __name__ == "__main__":
    sys.exit(main())
