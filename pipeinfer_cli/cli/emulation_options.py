"""The command-line options of emulated clusters, for the commands that have them."""

from __future__ import annotations

from typing import Annotated

import typer

EmulateOption = Annotated[
    str | None,
    typer.Option(
        "--emulate",
        metavar="PROFILE",
        help="Emulate a cluster on this host: a profile's name, or a TOML file.",
    ),
]
SynthAcceptanceOption = Annotated[
    str | None,
    typer.Option(
        "--synth-acceptance",
        metavar="RATE",
        help="Draw verdicts instead of the model's: a rate, or one per token ahead (0.8/0.7/0.6).",
    ),
]
