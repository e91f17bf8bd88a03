"""The command line's options for a batch of prompts."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeinfer_cli.cli import options
from pipeinfer_cli.cli.parsing.values import integer, reworded
from pipeinfer_cli.commands.batch.config import BatchFiles
from pipeinfer_cli.errors import UserError

DEFAULT_PARALLEL = 1

Prompts = Annotated[
    str | None,
    typer.Option(
        "--prompts",
        metavar="FILE.jsonl",
        help="Many prompts: a JSON object per line, with prompt or messages, or in the form of "
        "OpenAI's batch input; - is stdin.",
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        metavar="FILE.jsonl",
        help="With --prompts: write one result per line there, not to stdout.",
    ),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="With --output: continue after its last complete line."),
]
Parallel = Annotated[
    int,
    typer.Option(
        "--parallel",
        parser=integer,
        metavar="N",
        help="With --prompts: at most N requests in the pipeline at once.",
    ),
]

Format = Annotated[
    str,
    reworded(
        options.FORMAT,
        "text|json|openai",
        "text, or json: one object at the end. With --prompts: json, or openai: lines in the form "
        "of OpenAI's batch output.",
    ),
]


def files(
    prompts: str | None, output: str | None, resume: bool, parallel: int
) -> BatchFiles | None:
    """What the command line asks for; None: no batch. Raises UserError."""
    if prompts is None:
        for option, is_given in (
            ("--output", output is not None),
            ("--resume", resume),
            ("--parallel", parallel != DEFAULT_PARALLEL),
        ):
            if is_given:
                raise UserError(f"{option} requires --prompts FILE")
        return None
    output = None if output == "-" else output
    return BatchFiles(prompts=prompts, output=output, resume=resume, parallel=parallel)
