"""Writes the generated parts of the documentation, or checks that they are up to date.

    python tests/helpers/write_docs.py          # write docs/cli.md and docs/architecture.md's tree
    python tests/helpers/write_docs.py --check  # exit code 1 if one of them differs

docs/cli.md comes from the commands' options, the tree from the first lines of module docstrings.
Neither depends on the width of a terminal. `make docs` calls this.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2] / ".ci"))

import check_layout
from check_layout import PACKAGE, ROOT

CLI_PAGE = Path("docs/cli.md")
TREE_PAGE = Path("docs/architecture.md")
BEGIN, END = "<!-- tree: begin (make docs) -->", "<!-- tree: end -->"
COLUMN = 26  # of the summaries in the tree

CLI_HEAD = """# Command-line reference

Generated from the commands' `--help` by `make docs`; do not edit.
"""

LLAMA_CPP_HEAD = """## Coming from llama.cpp

What llama.cpp's options are here, in `generate`, `chat` and `bench`. *Ignored* options change
neither the text nor what is done: a note says so. *Refused* ones would change the text, or ask for
what is not there: the command ends with exit code 2. Options that are not listed are unknown.
"""


def cli_page() -> str:
    """All commands with their arguments and options, in the order of `pipeinfer --help`."""
    import click
    import typer

    from pipeinfer_cli.cli import application
    from pipeinfer_cli.cli.parsing import llama_cpp

    app = typer.Typer(name="pipeinfer", add_completion=False, rich_markup_mode=None)
    app.callback()(application.global_options)
    for name, command in application.COMMANDS.items():
        found = command.load()
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name)
        else:
            app.command(name)(found)
    root: Any = typer.main.get_command(app)
    sections = [CLI_HEAD, "\n".join(_table(root, click.Context(root, info_name="pipeinfer")))]
    for name, command in root.commands.items():
        sections += _sections(command, click.Context(command, info_name=f"pipeinfer {name}"))
    return "\n".join([*sections, LLAMA_CPP_HEAD, llama_cpp.table(), ""])


def _sections(command: Any, context: Any) -> Iterator[str]:
    """A section for the command, and one for each of its subcommands."""
    import click

    path = context.command_path
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    text = " ".join((command.help or "").split())
    lines = [f"## {path}", "", f"    {usage}", "", text, ""]
    yield "\n".join([*lines, *_table(command, context)])
    for name, sub in getattr(command, "commands", {}).items():
        yield from _sections(sub, click.Context(sub, info_name=name, parent=context))


def _table(command: Any, context: Any) -> list[str]:
    """The lines of a table of its options and arguments; none if it has none."""
    shown = [each for each in command.get_params(context) if not getattr(each, "hidden", False)]
    rows = [row for each in shown if (row := _row(each, context))]
    return ["| option | meaning |", "|---|---|", *rows, ""] if rows else []


def _row(param: Any, context: Any) -> str:
    """An option or an argument as a row of a table; empty for --help."""
    if param.name == "help":
        return ""
    record = param.get_help_record(context)
    if record is None:
        return ""
    name, text = (" ".join(part.split()).replace("|", "\\|") for part in record)
    return f"| `{name}` | {text} |"


def tree() -> str:
    """The package's modules, each with the first line of its docstring; upper layers first."""
    return "\n".join(["```", f"{PACKAGE}/", *_entries(ROOT / PACKAGE, "  "), "```"])


def _entries(folder: Path, indent: str) -> Iterator[str]:
    """The packages of a folder, then its modules."""
    packages = sorted(path.parent for path in folder.glob("*/__init__.py"))
    layers = check_layout.LAYERS  # upper ones first; folders inside one stay in their order
    packages.sort(key=lambda path: layers.index(path.name) if path.name in layers else len(layers))
    for package in packages:
        yield _line(f"{indent}{package.name}/", package / "__init__.py")
        yield from _entries(package, f"{indent}  ")
    for path in sorted(folder.glob("*.py")):
        if path.stem != "__init__":
            yield _line(f"{indent}{path.stem}", path)


def _line(name: str, path: Path) -> str:
    docstring = ast.get_docstring(check_layout.parsed(path)) or ""
    summary = docstring.partition("\n")[0]
    return f"{name:{COLUMN}} {summary}".rstrip()


def tree_page(page: str) -> str:
    """The page with a new block between its markers."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{TREE_PAGE}: the markers {BEGIN!r} and {END!r} are missing")
    return f"{before}{BEGIN}\n{tree()}\n{END}{after}"


def pages() -> dict[Path, str]:
    """What the generated pages should contain."""
    page = (ROOT / TREE_PAGE).read_text(encoding="utf-8")
    return {CLI_PAGE: cli_page(), TREE_PAGE: tree_page(page)}


def outdated() -> list[Path]:
    """The pages that differ from what would be generated."""
    return [
        path
        for path, text in pages().items()
        if not (ROOT / path).exists() or (ROOT / path).read_text(encoding="utf-8") != text
    ]


def main() -> int:
    """Writes or checks; the exit code."""
    if sys.argv[1:] == ["--check"]:
        for path in (found := outdated()):
            print(f"{path} is out of date: run make docs")
        return 1 if found else 0
    for path, text in pages().items():
        (ROOT / path).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
