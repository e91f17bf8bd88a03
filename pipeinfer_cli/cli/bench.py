"""The options of `pipeinfer bench`: lists with commas, whose product is measured."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, cast

import typer

from pipeinfer_cli.cli.options import integer, integer_or_auto, number, one, several, words
from pipeinfer_cli.commands import generate_config
from pipeinfer_cli.commands.bench import config as bench_cfg
from pipeinfer_cli.commands.bench.outputs import Outputs
from pipeinfer_cli.runtime import config as cfg
from pipeinfer_cli.scheduler import policy
from pipeinfer_cli.scheduler.runs import DEFAULT_SAMPLE, SampleParams

STRATEGIES = ",".join(policy.DEFAULT_STRATEGIES)
DRAFT = policy.DEFAULT_DRAFT


def bench(
    model: Annotated[str, typer.Option("-m", "--model", help="GGUF paths, or models' names.")],
    draft_model: Annotated[
        str,
        typer.Option("-md", "--model-draft", help="Draft models: GGUF paths, or models' names."),
    ] = "",
    ranks: Annotated[
        str,
        typer.Option("--ranks", metavar="N,...", help="Local ranks; default: one per NUMA node."),
    ] = "",
    strategy: Annotated[
        str,
        typer.Option(
            "--strategy",
            metavar="NAME,...",
            help="iterative, speculative, pipeinfer, auto; or pipeinfer without a part of it: "
            "pipeinfer:no-continuous, :no-cancel, :no-reactive.",
        ),
    ] = STRATEGIES,
    drafter: Annotated[
        str,
        typer.Option(
            "--drafter",
            metavar="NAME,...",
            help="ngram, model or both; default: model with -md, else ngram.",
        ),
    ] = "",
    draft_max: Annotated[
        str,
        typer.Option(
            "--draft-max",
            metavar="N,...",
            help="Drafted tokens per run at most; auto: as many as pay, by measured costs.",
        ),
    ] = "auto",
    draft_min: Annotated[
        str,
        typer.Option("--draft-min", metavar="N,...", help="Shorter drafts are dropped."),
    ] = f"{DRAFT.n_min}",
    draft_p_min: Annotated[
        str,
        typer.Option(
            "-pa", "--draft-p-min", metavar="P,...", help="A draft ends below this confidence."
        ),
    ] = f"{DRAFT.p_min:g}",
    p_recovery: Annotated[
        str,
        typer.Option(
            "-pr",
            "--draft-p-recovery",
            metavar="P,...",
            help="The cutoff rises by this at a miss.",
        ),
    ] = f"{DRAFT.p_recovery:g}",
    p_decay: Annotated[
        str,
        typer.Option(
            "-pd",
            "--draft-p-decay",
            metavar="P,...",
            help="It falls by this when stages would idle.",
        ),
    ] = f"{DRAFT.p_decay:g}",
    draft_width: Annotated[
        str,
        typer.Option("--draft-width", metavar="N,...", help="Candidates per token: trees."),
    ] = f"{DRAFT.width}",
    p_split: Annotated[
        str,
        typer.Option("--draft-p-split", metavar="P,...", help="No branch below this confidence."),
    ] = f"{DRAFT.p_split:g}",
    draft_threads: Annotated[
        str,
        typer.Option(
            "--draft-threads",
            metavar="N",
            help="Threads of the draft model.  [default: what the stage beside it leaves]",
        ),
    ] = "",
    emulate: Annotated[
        str,
        typer.Option(
            "--emulate",
            metavar="PROFILE,...",
            help="Emulate clusters on this host: profiles' names, or TOML files.",
        ),
    ] = "",
    draft_ratio: Annotated[
        str,
        typer.Option(
            "--draft-ratio",
            metavar="R",
            help="Emulated: a drafted token's time, as a share of the first stage's for one token.",
        ),
    ] = "",
    synth_acceptance: Annotated[
        str,
        typer.Option(
            "--synth-acceptance",
            metavar="RATE,...",
            help="Draw verdicts instead of the model's: rates (per token ahead: 0.8/0.7).",
        ),
    ] = "",
    prompts: Annotated[
        str,
        typer.Option(
            "-p",
            "--prompts",
            metavar="FILE",
            help="Prompts: .jsonl, or text with lines of --- between; default: a set of our own.",
        ),
    ] = "",
    n_predict: Annotated[
        str,
        typer.Option(
            "-n", "--n-predict", metavar="N", help="Tokens to generate at most, per prompt."
        ),
    ] = f"{generate_config.DEFAULT_N_PREDICT}",
    repetitions: Annotated[
        str, typer.Option("-r", "--repetitions", metavar="N", help="How often all is measured.")
    ] = f"{bench_cfg.DEFAULT_REPETITIONS}",
    no_warmup: Annotated[
        bool, typer.Option("--no-warmup", help="Measure from the first request on.")
    ] = False,
    threads: Annotated[
        str,
        typer.Option(
            "-t", "--threads", metavar="N,...", help="Threads per rank; default: share of cores."
        ),
    ] = "",
    ctx_size: Annotated[
        str, typer.Option("-c", "--ctx-size", metavar="N", help="Room for prompt and text.")
    ] = f"{cfg.DEFAULT_N_CTX}",
    layer_split: Annotated[
        str,
        typer.Option(
            "--layer-split", metavar="WEIGHTS", help="A weight per rank, or auto: as in generate."
        ),
    ] = "auto",
    temp: Annotated[
        str, typer.Option("--temp", metavar="T", help="Temperature; 0 is greedy.")
    ] = f"{DEFAULT_SAMPLE.temperature:g}",
    top_k: Annotated[
        str, typer.Option("--top-k", metavar="N", help="As in generate.")
    ] = f"{DEFAULT_SAMPLE.top_k}",
    top_p: Annotated[
        str, typer.Option("--top-p", metavar="P", help="As in generate.")
    ] = f"{DEFAULT_SAMPLE.top_p:g}",
    min_p: Annotated[
        str, typer.Option("--min-p", metavar="P", help="As in generate.")
    ] = f"{DEFAULT_SAMPLE.min_p:g}",
    seed: Annotated[
        str, typer.Option("--seed", metavar="N", help="As in generate.")
    ] = f"{DEFAULT_SAMPLE.seed}",
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Go on at end-of-generation tokens.")
    ] = False,
    timeout: Annotated[
        str,
        typer.Option(
            "--timeout", metavar="SECONDS", help="End when a stage is silent for so long."
        ),
    ] = f"{cfg.DEFAULT_TIMEOUT_S:g}",
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="md|csv|json|jsonl", help="Format.")
    ] = "md",
    plot: Annotated[
        str,
        typer.Option("--plot", metavar="FILE.svg|png", help="Draw speed over what varies."),
    ] = "",
    plot_x: Annotated[
        str,
        typer.Option(
            "--plot-x", metavar="COLUMN", help="Draw it over this, such as acceptance or n_stages."
        ),
    ] = "",
    trace: Annotated[
        str,
        typer.Option(
            "--trace",
            metavar="FILE.json",
            help="Trace one more request of the last variant, for Perfetto.",
        ),
    ] = "",
    trace_of: Annotated[
        str,
        typer.Option("--trace-of", metavar="NAME", help="Trace another one, as in --strategy."),
    ] = "",
    record_acceptance: Annotated[
        str,
        typer.Option(
            "--record-acceptance",
            metavar="FILE.json",
            help="Write for each token whether the last variant's drafter knew it, for simulate.",
        ),
    ] = "",
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help="Compare nothing: measure stages, links and drafter, for later jobs.",
        ),
    ] = False,
    calibrate_to: Annotated[
        str,
        typer.Option(
            "--calibrate-to",
            metavar="FILE.toml",
            help="The same, written there as well: a profile for --emulate and simulate.",
        ),
    ] = "",
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Say more on stderr.")] = False,
) -> Callable[[], int]:
    """Compare strategies: every variant in turn, on every prompt, through the same pipeline."""
    config = bench_cfg.BenchConfig(
        models=words("-m/--model", model),
        draft_models=words("-md/--model-draft", draft_model),
        ranks=several("--ranks", ranks, integer) or (None,),
        threads=several("-t/--threads", threads, integer) or (None,),
        emulate=words("--emulate", emulate) or (None,),
        synth_acceptance=words("--synth-acceptance", synth_acceptance) or (None,),
        strategies=words("--strategy", strategy),
        drafters=words("--drafter", drafter),
        draft={
            "n_max": several("--draft-max", draft_max, integer_or_auto),
            "n_min": several("--draft-min", draft_min, integer),
            "p_min": several("-pa/--draft-p-min", draft_p_min, number),
            "p_recovery": several("-pr/--draft-p-recovery", p_recovery, number),
            "p_decay": several("-pd/--draft-p-decay", p_decay, number),
            "width": several("--draft-width", draft_width, integer),
            "p_split": several("--draft-p-split", p_split, number),
        },
        prompts=prompts or None,
        n_predict=one("-n/--n-predict", n_predict, integer),
        repetitions=one("-r/--repetitions", repetitions, integer),
        warmup=not no_warmup,
        output=cast("bench_cfg.OutputFormat", output),
        outputs=Outputs(
            plot=plot or None,
            plot_x=plot_x or None,
            trace=_absolute(trace),
            trace_of=trace_of or None,
            acceptance=_absolute(record_acceptance),
        ),
        job={
            "n_ctx": one("-c/--ctx-size", ctx_size, integer),
            "layer_split": cfg.parse_layer_split(layer_split),
            "draft_threads": one("--draft-threads", draft_threads, integer)
            if draft_threads
            else None,
            "draft_ratio": one("--draft-ratio", draft_ratio, number) if draft_ratio else None,
            "sample": SampleParams(
                temperature=one("--temp", temp, number),
                top_k=one("--top-k", top_k, integer),
                top_p=one("--top-p", top_p, number),
                min_p=one("--min-p", min_p, number),
                seed=one("--seed", seed, integer),
            ),
            "ignore_eos": ignore_eos,
            "timeout_s": one("--timeout", timeout, number),
            "verbose": verbose,
        },
    )
    if calibrate or calibrate_to:
        return partial(_calibrate, config, Path(calibrate_to) if calibrate_to else None)
    return partial(_run, config)


def _calibrate(config: bench_cfg.BenchConfig, save_to: Path | None) -> int:
    from pipeinfer_cli.commands.calibrate.config import CalibrateConfig
    from pipeinfer_cli.commands.calibrate.run import calibrate as run

    return run(CalibrateConfig(bench=config, save_to=save_to))


def _absolute(file: str) -> str | None:
    """Other processes write it."""
    return str(Path(file).absolute()) if file else None


def _run(config: bench_cfg.BenchConfig) -> int:
    from pipeinfer_cli.commands.bench.run import bench as run

    return run(config)
