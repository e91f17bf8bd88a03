"""Checks how pipeinfer_cli is laid out: imports go downwards, no circles, folders of a size.

What is in the scheduler is pure: it has no clock, no randomness, no threads.

`python .ci/check_layout.py [FOLDER]` prints what is wrong, a line each, and returns 1 if there is
something. An import inside a function counts like any other.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGE = "pipeinfer_cli"
ROOT = Path(__file__).parents[1]
# Each may import from those after it. What is not in a package is the base, below all of them.
LAYERS = (
    "__main__",
    "cli",
    "commands",
    "runtime",
    "trace",
    "cluster",
    "drafters",
    "models",
    "launch",
    "engine",
    "scheduler",
)
PURE = "scheduler"
IMPURE = ("datetime", "random", "secrets", "threading", "time")
MAX_TOP, MAX_ENTRIES = 20, 14  # entries of the package's folder, and of those below it
CACHE = "__pycache__"


def modules(folder: Path) -> dict[str, Path]:
    """Dotted names and files of all modules; a package goes by its own name."""
    found = {}
    for path in sorted((folder / PACKAGE).rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


def parsed(path: Path) -> ast.Module:
    """A module's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path, known: Mapping[str, Path]) -> Iterator[tuple[str, int]]:
    """The modules of ours that a file imports, and on which line."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else node.module for name in inside]
        else:
            continue
        for name in dict.fromkeys(names):
            if name in known:
                yield name, node.lineno


def impure(known: Mapping[str, Path]) -> Iterator[str]:
    """A line for each import of the scheduler that would make it depend on more than its input."""
    for module, path in known.items():
        if not f"{module}.".startswith(f"{PACKAGE}.{PURE}."):
            continue
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            else:
                continue
            for name in names:
                if name.partition(".")[0] in IMPURE:
                    yield f"{path}:{node.lineno}: {module} imports {name}: {PURE}/ is pure"


def layer_of(module: str) -> int:
    """Its place in LAYERS; the base is below the last one."""
    parts = module.split(".")
    return LAYERS.index(parts[1]) if len(parts) > 1 and parts[1] in LAYERS else len(LAYERS)


def upward(known: Mapping[str, Path]) -> Iterator[str]:
    """A line for each import from a layer above."""
    for module, path in known.items():
        for name, line in imports(path, known):
            if name != PACKAGE and layer_of(name) < layer_of(module):
                yield f"{path}:{line}: {module} imports {name}, which is above it: see LAYERS"


def circle(known: Mapping[str, Path]) -> list[str]:
    """Modules that import one another in a circle, the first one again at the end, or nothing."""
    arrows = {module: [name for name, _ in imports(path, known)] for module, path in known.items()}
    done: set[str] = set()

    def search(module: str, way: list[str]) -> list[str]:
        if module in way:
            return [*way[way.index(module) :], module]
        if module in done:
            return []
        for name in arrows[module]:
            if found := search(name, [*way, module]):
                return found
        done.add(module)
        return []

    return next(filter(None, (search(module, []) for module in known)), [])


def has_files(path: Path) -> bool:
    """Whether it is a file, or a folder that has one; what Python caches does not count."""
    below = path.rglob("*") if path.is_dir() else (path,)
    return any(each.is_file() and CACHE not in each.parts for each in below)


def crowded(folder: Path) -> Iterator[str]:
    """A line for each folder with too many entries."""
    top = folder / PACKAGE
    library = top / "lib"  # of an installed package, or an editable one
    for each in (top, *sorted(path for path in top.rglob("*") if path.is_dir())):
        if each == library or library in each.parents:
            continue
        count = sum(has_files(path) for path in each.iterdir())
        most = MAX_TOP if each == top else MAX_ENTRIES
        if count > most:
            yield f"{each}: {count} entries: at most {most}"


def problems(folder: Path) -> list[str]:
    """All that is wrong, a line each."""
    known = modules(folder)
    around = circle(known)
    circles = [f"imports in a circle: {' -> '.join(around)}"] if around else []
    return [*upward(known), *circles, *impure(known), *crowded(folder)]


def main() -> int:
    """The check of a checkout; the exit code."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT
    found = problems(folder)
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
