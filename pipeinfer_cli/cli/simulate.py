"""The options of `pipeinfer simulate`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import typer

from pipeinfer_cli.cli.options import draft_options
from pipeinfer_cli.cli.parsing.values import integer, listed, number, one, several, words


def simulate(
    context: typer.Context,
    profile: Annotated[
        str,
        typer.Option("--profile", metavar="NAME,...", help="Shipped profiles, or TOML files."),
    ] = "cpu70b-8-ib",
    stages: Annotated[
        str | None,
        typer.Option(
            "--stages",
            metavar="N,...",
            help="The profile's model over N equal stages, 1 to 512; default: as in the profile.",
        ),
    ] = None,
    acceptance: Annotated[
        str,
        typer.Option(
            "--acceptance",
            metavar="RATE,...",
            help="How often a draft is right; by tokens ahead of the text: 0.8/0.7/0.6; "
            "0.8:informed: the drafter says how sure it is; 0.8:real: as sure as real ones; or "
            "FILE.json, of bench --record-acceptance.",
        ),
    ] = "0.5,0.66,0.79,0.9",
    strategy: Annotated[
        str,
        typer.Option(
            "--strategy",
            metavar="NAME,...",
            help="As in bench, also pipeinfer:paper, and that without a part of it.",
        ),
    ] = "iterative,speculative,pipeinfer",
    drafter: Annotated[
        str,
        typer.Option(
            "--drafter",
            metavar="NAME,...",
            help="model, ngram, both; auto: the fastest of them (strategy auto).",
        ),
    ] = "model",
    repetition: Annotated[
        str,
        typer.Option(
            "--repetition",
            metavar="SHARE",
            help="Of the text: parts that repeat what was before, which n-grams know.",
        ),
    ] = "0",
    draft_max: draft_options.DraftMaxes = "auto",
    draft_width: draft_options.DraftWidths = "1",
    draft_p_split: draft_options.DraftPSplits = "0.1",
    draft_p_min: Annotated[
        Any,
        listed(
            draft_options.DRAFT_P_MIN,
            "A draft ends below this confidence; see :informed and :real drafters.",
        ),
    ] = "0.4",
    prompt_tokens: Annotated[
        str, typer.Option("--prompt-tokens", metavar="N", help="Tokens of the prompt.")
    ] = "8",
    n_predict: Annotated[
        str, typer.Option("-n", "--n-predict", metavar="N", help="Tokens to generate.")
    ] = "512",
    seed: Annotated[
        str, typer.Option("--seed", metavar="N", help="Seed of the drawn verdicts.")
    ] = "1",
    draft_ms: Annotated[
        str | None,
        typer.Option("--draft-ms", metavar="MS", help="Per drafted token, not the profile's."),
    ] = None,
    draft_ratio: Annotated[
        str | None,
        typer.Option(
            "--draft-ratio",
            metavar="R",
            help="The same as a share of the first stage's time for one token.",
        ),
    ] = None,
    head_us: Annotated[
        str, typer.Option("--head-us", metavar="US", help="The head's own time per run.")
    ] = "50",
    shared_cores: Annotated[
        bool,
        typer.Option(
            "--shared-cores",
            help="With --stages 1: the draft model and the stage compute in turn.",
        ),
    ] = False,
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            metavar="auto|md|json|csv",
            help="Format; auto: tables that fit the terminal, Markdown into a pipe.",
        ),
    ] = "auto",
) -> Callable[[], int]:
    """Predict the speed of strategies on a cluster. Comma lists make the product."""
    from pipeinfer_cli.cluster.simulate import SimulateConfig
    from pipeinfer_cli.cluster.simulate import simulate as run

    config = SimulateConfig(
        profiles=words("--profile", profile),
        stages=() if stages is None else several("--stages", stages, integer),
        acceptance=words("--acceptance", acceptance),
        strategies=words("--strategy", strategy),
        drafters=words("--drafter", drafter),
        repetition=one("--repetition", repetition, number),
        draft_max=draft_max,
        draft_width=draft_width,
        draft_p_split=draft_p_split,
        draft_p_min=draft_p_min,
        n_prompt=one("--prompt-tokens", prompt_tokens, integer),
        n_predict=one("-n/--n-predict", n_predict, integer),
        seed=one("--seed", seed, integer),
        draft_ms=None if draft_ms is None else one("--draft-ms", draft_ms, number),
        draft_ratio=None if draft_ratio is None else one("--draft-ratio", draft_ratio, number),
        head_us=one("--head-us", head_us, number),
        shares_cores=shared_cores,
        output=output,
        is_auto=not draft_options.given(context),
    )
    return partial(run, config)
