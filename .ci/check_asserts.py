"""Checks that asserts have no effect: with `python -O` they are not there.

`python .ci/check_asserts.py [FOLDER]` prints those that may have one, a line each, and returns 1 if
there is one. Tests are not looked at. Bad input is for UserError, never for an assert.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDERS = ("pipeinfer_cli", "native/cmake", ".ci")
# What an assert may call: they change nothing.
PURE = frozenset(
    {"all", "any", "isinstance", "len", "list", "max", "min", "set", "sorted", "sum", "tuple"}
)
PURE_METHODS = frozenset({"keys", "values", "items", "startswith", "endswith"})
EFFECTS = (ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom)


def has_effect(node: ast.AST) -> bool:
    """Whether evaluating this may change something, as far as one can see."""
    if not isinstance(node, ast.Call):
        return isinstance(node, EFFECTS)
    function = node.func
    if isinstance(function, ast.Attribute):
        return function.attr not in PURE_METHODS
    return not (isinstance(function, ast.Name) and (function.id in PURE))


def problems(path: Path) -> Iterator[str]:
    """A line for each assert of a file that may have an effect."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assert) and any(map(has_effect, ast.walk(node.test))):
            yield f"{path}:{node.lineno}: the assert may have an effect: take it out of the assert"


def main() -> int:
    """The check of a checkout; the exit code."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]
    files = sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.py"))
    found = [line for path in files for line in problems(path)]
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
