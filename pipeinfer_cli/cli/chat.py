"""The command `pipeinfer chat`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, get_type_hints

import typer

from pipeinfer_cli.checks import MAX_COUNT
from pipeinfer_cli.cli.generate import generate
from pipeinfer_cli.cli.options import integer
from pipeinfer_cli.commands.chat.config import ChatConfig
from pipeinfer_cli.commands.chat.lines import greet

AnswerTokens = Annotated[
    int,
    typer.Option(
        "-n",
        "--n-predict",
        parser=integer,
        metavar="N",
        help="Tokens of an answer at most.",
        show_default="what the context leaves",
    ),
]

# Options of generate that mean nothing in a conversation, or are given by it.
NOT_OURS = frozenset(
    [
        "prompt",
        "file",
        "chat",
        "verify",
        "trace",
        "plot",
        "plot_window",
        "live",
        "emulate",
        "synth_acceptance",
        "prompts",
        "output",
        "resume",
        "parallel",
    ]
)


def command(generate: Callable[..., Callable[[], int]]) -> Callable[..., Callable[[], int]]:
    """The command `chat`: the options of `generate` that make sense line by line."""
    hints = get_type_hints(generate, include_extras=True)
    hints["n_predict"] = AnswerTokens
    kept = [
        each.replace(
            annotation=hints[each.name],
            default=MAX_COUNT if each.name == "n_predict" else each.default,
        )
        for each in inspect.signature(generate).parameters.values()
        if each.name not in NOT_OURS
    ]

    def chat(**options: Any) -> Callable[[], int]:
        """Talk with the model: a message per line. /reset forgets, /quit and Ctrl-D end."""
        action: Any = generate(prompt="", chat=True, **options)
        return partial(_run, ChatConfig.of(action.args[0]))

    chat.__signature__ = inspect.Signature(kept)  # type: ignore[attr-defined]
    chat.__annotations__ = {each.name: each.annotation for each in kept}
    return chat


def _run(config: ChatConfig) -> int:
    from pipeinfer_cli.commands.start import generate

    greet()
    return generate(config)


chat = command(generate)
