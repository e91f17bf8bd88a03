"""Whether this machine can build pipeinfer: a line for what is missing, and exit code 1.

Runs with the Python that make has found, which may be too old for everything else: nothing that is
newer than Python 3.6 here.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from typing import List  # noqa: UP035 (list[str] is newer)

LEAST_PYTHON = (3, 10)
PROGRAM = b"#include <vector>\n"


def missing() -> List[str]:  # noqa: UP006
    """What there is not, and what to do about it."""
    return [problem for problem in (_python(), _venv(), _compiler()) if problem]


def _python() -> str:
    if sys.version_info >= LEAST_PYTHON:
        return ""
    return (
        "Python {}.{} is too old: 3.10 or later is required: install it, and name it: "
        "make PYTHON=python3.12 ...".format(*sys.version_info[:2])
    )


def _venv() -> str:
    if all(map(importlib.util.find_spec, ("venv", "ensurepip"))):
        return ""
    return f"{sys.executable} cannot make virtual environments: install its package python3-venv"


def _compiler() -> str:
    for variable, names, language in (
        ("CC", ("cc", "gcc", "clang"), "C"),
        ("CXX", ("c++", "g++", "clang++"), "C++"),
    ):
        asked = os.environ.get(variable, "").split()
        found = asked or [name for name in names if shutil.which(name)]
        if not found or not shutil.which(found[0]):
            named = f" ({variable} names {asked[0]!r})" if asked else ""
            todo = f"install gcc and g++, or clang, or set {variable}"
            return f"there is no {language} compiler{named}: {todo}"
    return _library(asked or found[:1])


def _library(compiler: List[str]) -> str:  # noqa: UP006
    """Compilers come without the library of C++, too."""
    command = [*compiler, "-x", "c++", "-E", "-"]
    done = subprocess.run(
        command, input=PROGRAM, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
    )
    if done.returncode == 0:
        return ""
    return f"{compiler[0]} does not find the header <vector>: install g++, or libstdc++"


def main() -> int:
    """The exit code."""
    found = missing()
    for problem in found:
        sys.stderr.write(f"pipeinfer: error: {problem}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
