"""The commands of `pipeinfer`: one table, and the one that a command line names is imported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

import typer

from pipeinfer_cli.cli.parsing import command as parsing_command

# Newer versions of typer carry a click of their own: only this way is its base class found.
CLICK_ERROR: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

CONTEXT = {"help_option_names": ["-h", "--help"]}  # of all commands

# Commands only say what to do: click has ideas of its own about errors in them (Ctrl-C, EPIPE).
Action = Callable[[], int]


@dataclass(frozen=True)
class Command:
    """Where a command is defined, and the line that `pipeinfer --help` shows for it."""

    module: str
    attribute: str  # a function, or a typer.Typer of further commands
    summary: str

    def load(self) -> Any:
        """Imports the module that defines it."""
        return getattr(import_module(f"pipeinfer_cli.cli.{self.module}"), self.attribute)


COMMANDS = {
    "generate": Command("generate", "generate", "Generate text."),
    "chat": Command("chat", "chat", "Talk with the model: a message per line."),
    "serve": Command("serve", "serve", "Answer requests over HTTP, as OpenAI's API has them."),
    "bench": Command(
        "bench",
        "bench",
        "Compare strategies: every variant in turn, on every prompt, through the same pipeline.",
    ),
    "simulate": Command("simulate", "simulate", "Predict the speed of strategies on a cluster."),
    "shard": Command(
        "models",
        "shard",
        "Cut a GGUF into one file per stage, for nodes without shared storage.",
    ),
    "doctor": Command(
        "doctor",
        "doctor",
        "Check what is installed and how it fits; exit code 1 if generation cannot work.",
    ),
    "models": Command(
        "models",
        "models_app",
        "Models: list, fetch and find named ones, look into GGUFs, derive others.",
    ),
}


def run(args: Sequence[str]) -> Action | None:
    """What the command line asks for; None if that is done: --help, --version."""
    action: Any = _application(args)(args=list(args), prog_name="pipeinfer", standalone_mode=False)
    return action if callable(action) else None


def _application(args: Sequence[str]) -> typer.Typer:
    """With the command that is named first; of the others, only names and summaries."""
    app = typer.Typer(
        name="pipeinfer",
        help="Text from a GGUF model whose layers are split over MPI ranks.",
        add_completion=False,
        no_args_is_help=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings=CONTEXT,
    )
    app.callback()(global_options)
    named = next((arg for arg in args if not arg.startswith("-")), None)
    for name, command in COMMANDS.items():
        if name != named:
            app.command(name, help=command.summary)(_not_named)
        elif isinstance(found := command.load(), typer.Typer):
            for each in found.registered_commands:
                each.cls = parsing_command.CheckedCommand
            app.add_typer(found, name=name)
        else:
            app.command(name, cls=parsing_command.CheckedCommand)(found)
    return app


def _not_named() -> None:
    raise AssertionError("another command was named")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"pipeinfer {_version()}")
        raise typer.Exit


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("pipeinfer")
    except PackageNotFoundError:  # a source tree
        return "(not installed)"


def global_options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Options of `pipeinfer` itself."""
