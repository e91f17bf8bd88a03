"""The options about drafts that generate, chat and bench share, each declared once.

Without any of those that say how to draft, lengths, trees and runs are chosen by expected gain.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, cast

import typer

from pipeinfer_cli.cli.parsing.values import integer, integer_or_auto, listed, number
from pipeinfer_cli.engine.config import DRAFT_CACHE_OPTIONS, CacheTypes
from pipeinfer_cli.scheduler.policy import DraftConfig, DrafterKind

STRATEGY = typer.Option(
    "--strategy", metavar="NAME", help="iterative, speculative, pipeinfer or auto."
)
Strategy = Annotated[str, STRATEGY]
DRAFT_MODEL = typer.Option(
    "-md", "--model-draft", metavar="MODEL", help="A draft model: a GGUF path, or a model's name."
)
DraftModel = Annotated[str | None, DRAFT_MODEL]
DRAFTER = typer.Option(
    "--drafter",
    metavar="NAME",
    help="none, ngram, model, both, or auto: the fastest of the last three; default: with -md auto "
    "(model if lengths, cutoffs, widths or another strategy are given), else ngram.",
)
Drafter = Annotated[str | None, DRAFTER]
CacheTypeK = Annotated[
    str,
    typer.Option(
        "-ctkd", "--cache-type-k-draft", metavar="TYPE", help="As -ctk, of the draft model."
    ),
]
CacheTypeV = Annotated[
    str,
    typer.Option(
        "-ctvd", "--cache-type-v-draft", metavar="TYPE", help="As -ctv, of the draft model."
    ),
]
DRAFT_MAX = typer.Option(
    "--draft-max",
    parser=integer_or_auto,
    metavar="N|auto",
    help="At most N drafted tokens per run; the length of speculative drafts. "
    "auto: as many as pay, by measured costs. With no option about lengths, cutoffs and widths, "
    "all of that is chosen by expected gain.",
)
DraftMax = Annotated[Any, DRAFT_MAX]
DRAFT_MIN = typer.Option(
    "--draft-min", parser=integer, metavar="N", help="Shorter drafts are dropped (speculative)."
)
DraftMin = Annotated[int, DRAFT_MIN]
DRAFT_P_MIN = typer.Option(
    "-pa",
    "--draft-p-min",
    parser=number,
    metavar="P",
    help="A draft ends below this confidence.",
)
DraftPMin = Annotated[float, DRAFT_P_MIN]
DRAFT_P_RECOVERY = typer.Option(
    "-pr",
    "--draft-p-recovery",
    parser=number,
    metavar="P",
    help="The cutoff rises by this at a miss.",
)
DraftPRecovery = Annotated[float, DRAFT_P_RECOVERY]
DRAFT_P_DECAY = typer.Option(
    "-pd",
    "--draft-p-decay",
    parser=number,
    metavar="P",
    help="It falls by this when stages would idle.",
)
DraftPDecay = Annotated[float, DRAFT_P_DECAY]
DRAFT_WIDTH = typer.Option(
    "--draft-width",
    parser=integer,
    metavar="N",
    help="Candidates per position; with more than one, drafts are trees.",
)
DraftWidth = Annotated[int, DRAFT_WIDTH]
DRAFT_P_SPLIT = typer.Option(
    "--draft-p-split",
    parser=number,
    metavar="P",
    help="Further candidates below this confidence get no branch.",
)
DraftPSplit = Annotated[float, DRAFT_P_SPLIT]
DraftDevice = Annotated[
    str | None,
    typer.Option(
        "--draft-device",
        metavar="NAME",
        help="Device of the head's host that computes the draft model; default: the CPU.",
    ),
]
DraftThreads = Annotated[
    int | None,
    typer.Option(
        "--draft-threads",
        parser=integer,
        metavar="N",
        help="Threads of the draft model.  [default: the cores that the head's layers leave; "
        "else all, in turn with them]",
    ),
]

# lists of their values, for commands that compare them

DraftModels = Annotated[Any, listed(DRAFT_MODEL, "Draft models: GGUF paths, or models' names.")]
Drafters = Annotated[
    Any,
    listed(
        DRAFTER,
        "ngram, model, both, or auto: the fastest of them (strategy auto); default: with -md "
        "model, and auto for that strategy, else ngram.",
    ),
]
DraftMaxes = Annotated[Any, listed(DRAFT_MAX)]
DraftMins = Annotated[Any, listed(DRAFT_MIN)]
DraftPMins = Annotated[Any, listed(DRAFT_P_MIN)]
DraftPRecoveries = Annotated[Any, listed(DRAFT_P_RECOVERY)]
DraftPDecays = Annotated[Any, listed(DRAFT_P_DECAY)]
DraftWidths = Annotated[Any, listed(DRAFT_WIDTH)]
DraftPSplits = Annotated[Any, listed(DRAFT_P_SPLIT)]


def drafter_kind(
    drafter: str | None, draft_model: str | None, strategy: str, context: typer.Context
) -> DrafterKind:
    """The drafter that is meant; GenerateConfig refuses what is none."""
    if drafter:
        return cast("DrafterKind", drafter)
    if not draft_model:
        return "ngram"
    return "auto" if strategy == "auto" and not given(context) else "model"


def cache_types(k: str, v: str) -> CacheTypes:
    """Of a draft model's KV cache. Raises UserError."""
    return CacheTypes(k, v, DRAFT_CACHE_OPTIONS)


def given(context: typer.Context) -> tuple[str, ...]:
    """The fields of DraftConfig whose options are on the command line."""
    sources = {
        each.name: context.get_parameter_source(f"draft_{each.name.removeprefix('n_')}")
        for each in fields(DraftConfig)
    }
    return tuple(name for name, source in sources.items() if source and source.name != "DEFAULT")
