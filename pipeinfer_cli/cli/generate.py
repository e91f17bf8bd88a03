"""The options of `pipeinfer generate`, most of which `chat` has, too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Annotated, cast

import typer

from pipeinfer_cli.cli import batch_options, options
from pipeinfer_cli.cli import trace_options as picture_options
from pipeinfer_cli.cli.emulation_options import EmulateOption, SynthAcceptanceOption
from pipeinfer_cli.cli.options import integer, number
from pipeinfer_cli.commands import generate_config
from pipeinfer_cli.runtime import config as cfg
from pipeinfer_cli.scheduler import policy
from pipeinfer_cli.scheduler.policy import ABLATIONS, DraftConfig, DrafterKind, Strategy
from pipeinfer_cli.scheduler.runs import DEFAULT_SAMPLE, SampleParams
from pipeinfer_cli.trace.config import Pictures


def generate(
    context: typer.Context,
    model: Annotated[str, typer.Option("-m", "--model", help="A GGUF path, or a model's name.")],
    prompt: Annotated[
        str | None, typer.Argument(help="The prompt; without it (or with -) it is read from stdin.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("-f", "--file", help="A file with the prompt.")
    ] = None,
    n_predict: Annotated[
        int,
        typer.Option(
            "-n", "--n-predict", parser=integer, metavar="N", help="Tokens to generate at most."
        ),
    ] = generate_config.DEFAULT_N_PREDICT,
    ctx_size: Annotated[
        int,
        typer.Option(
            "-c",
            "--ctx-size",
            parser=integer,
            metavar="N",
            help="Room for prompt and text, in tokens.",
        ),
    ] = cfg.DEFAULT_N_CTX,
    ranks: Annotated[
        int | None,
        typer.Option(
            "--ranks",
            parser=integer,
            metavar="N",
            help="Local ranks to start; default: one per NUMA node.",
        ),
    ] = None,
    layer_split: Annotated[
        str,
        typer.Option(
            "--layer-split",
            metavar="WEIGHTS",
            help="A weight per rank (2,1,1), or auto: even by time if calibrated, else by bytes.",
        ),
    ] = "auto",
    threads: options.Threads = None,
    plan: options.PlanOnly = False,
    report_binding: options.ReportBinding = False,
    temp: Annotated[
        float,
        typer.Option("--temp", parser=number, metavar="T", help="Temperature; 0 is greedy."),
    ] = DEFAULT_SAMPLE.temperature,
    top_k: Annotated[
        int,
        typer.Option(
            "--top-k",
            parser=integer,
            metavar="N",
            help="With --temp: draw from the N most likely tokens; 0: all.",
        ),
    ] = DEFAULT_SAMPLE.top_k,
    top_p: Annotated[
        float,
        typer.Option(
            "--top-p",
            parser=number,
            metavar="P",
            help="With --temp: of these, as few as have probability P together; 1: all.",
        ),
    ] = DEFAULT_SAMPLE.top_p,
    min_p: Annotated[
        float,
        typer.Option(
            "--min-p",
            parser=number,
            metavar="P",
            help="With --temp: of these, all with P times the largest probability; 0: all.",
        ),
    ] = DEFAULT_SAMPLE.min_p,
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            parser=integer,
            metavar="N",
            help="With --temp: same model, prompt and options, same text; another seed, another.",
        ),
    ] = DEFAULT_SAMPLE.seed,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Go on at end-of-generation tokens.")
    ] = False,
    stop: options.Stop = None,
    chat: options.Chat = False,
    system: options.System = None,
    stats: Annotated[bool, typer.Option("--stats", help="Say on stderr how fast it was.")] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Decode again without speculation; say where texts differ."),
    ] = False,
    format_: Annotated[
        str,
        typer.Option("--format", metavar="text|json", help="text, or json: one object at the end."),
    ] = "text",
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            parser=number,
            metavar="SECONDS",
            help="End when no stage gets on with anything for so long.",
        ),
    ] = cfg.DEFAULT_TIMEOUT_S,
    strategy: Annotated[
        str,
        typer.Option(
            "--strategy", metavar="NAME", help="iterative, speculative, pipeinfer or auto."
        ),
    ] = "auto",
    draft_model: Annotated[
        str | None,
        typer.Option("-md", "--model-draft", help="A draft model: a GGUF path, or a model's name."),
    ] = None,
    drafter: Annotated[
        str | None,
        typer.Option(
            "--drafter",
            metavar="NAME",
            help="none, ngram, model or both; default: model with -md, else ngram.",
        ),
    ] = None,
    draft_max: options.DraftMax = "auto",
    draft_min: Annotated[
        int,
        typer.Option(
            "--draft-min",
            parser=integer,
            metavar="N",
            help="Shorter drafts are dropped (speculative).",
        ),
    ] = policy.DEFAULT_DRAFT.n_min,
    draft_p_min: Annotated[
        float,
        typer.Option(
            "-pa",
            "--draft-p-min",
            parser=number,
            metavar="P",
            help="A draft ends below this confidence.",
        ),
    ] = policy.DEFAULT_DRAFT.p_min,
    draft_p_recovery: Annotated[
        float,
        typer.Option(
            "-pr",
            "--draft-p-recovery",
            parser=number,
            metavar="P",
            help="The cutoff rises by this at a miss.",
        ),
    ] = policy.DEFAULT_DRAFT.p_recovery,
    draft_p_decay: Annotated[
        float,
        typer.Option(
            "-pd",
            "--draft-p-decay",
            parser=number,
            metavar="P",
            help="It falls by this when stages would idle.",
        ),
    ] = policy.DEFAULT_DRAFT.p_decay,
    draft_width: Annotated[
        int,
        typer.Option(
            "--draft-width",
            parser=integer,
            metavar="N",
            help="Candidates per position; more than one draft a tree.",
        ),
    ] = policy.DEFAULT_DRAFT.width,
    draft_p_split: Annotated[
        float,
        typer.Option(
            "--draft-p-split",
            parser=number,
            metavar="P",
            help="Further candidates below this confidence get no branch.",
        ),
    ] = policy.DEFAULT_DRAFT.p_split,
    draft_threads: Annotated[
        int | None,
        typer.Option(
            "--draft-threads",
            parser=integer,
            metavar="N",
            help="Threads of the draft model.  [default: the cores that the head's layers leave; "
            "else all, in turn with them]",
        ),
    ] = None,
    prompts: batch_options.Prompts = None,
    output: batch_options.Output = None,
    resume: batch_options.Resume = False,
    parallel: batch_options.Parallel = batch_options.DEFAULT_PARALLEL,
    trace: picture_options.Trace = None,
    plot: picture_options.Plot = None,
    plot_window: picture_options.PlotWindow = None,
    live: picture_options.Live = False,
    no_continuous: Annotated[
        bool,
        typer.Option(
            "--no-continuous", help="pipeinfer, but one draft after the other's end (to compare)."
        ),
    ] = False,
    no_cancel: Annotated[
        bool,
        typer.Option("--no-cancel", help="pipeinfer, but wrong runs are computed to their end."),
    ] = False,
    no_reactive: Annotated[
        bool, typer.Option("--no-reactive", help="pipeinfer, but with a fixed cutoff (-pa).")
    ] = False,
    emulate: EmulateOption = None,
    synth_acceptance: SynthAcceptanceOption = None,
    log_file: options.LogFile = None,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Say more on stderr.")] = False,
) -> Callable[[], int]:
    """Generate text. Joins the job of mpirun or srun; alone it starts --ranks local ranks."""
    return partial(
        _run,
        generate_config.GenerateConfig(
            model=model,
            prompt=generate_config.Prompt.from_options(prompt, file),
            n_predict=n_predict,
            n_ctx=ctx_size,
            ranks=ranks,
            layer_split=cfg.parse_layer_split(layer_split),
            threads=threads,
            plan_only=plan,
            report_binding=report_binding,
            sample=SampleParams(temperature=temp, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed),
            ignore_eos=ignore_eos,
            stop=tuple(stop or ()),
            chat=chat,
            system=system,
            stats=stats,
            verify=verify,
            format=generate_config.parse_format(format_),
            verbose=verbose,
            timeout_s=timeout,
            log_file=log_file,
            strategy=cast("Strategy", strategy),
            ablations=tuple(compress(ABLATIONS, (no_continuous, no_cancel, no_reactive))),
            drafter=cast("DrafterKind", drafter or ("model" if draft_model else "ngram")),
            draft_model=draft_model,
            draft_threads=draft_threads,
            emulate=emulate,
            synth_acceptance=synth_acceptance,
            draft=DraftConfig.of(
                options.one("--draft-max", draft_max, options.integer_or_auto),
                n_min=draft_min,
                p_min=draft_p_min,
                p_recovery=draft_p_recovery,
                p_decay=draft_p_decay,
                width=draft_width,
                p_split=draft_p_split,
            ),
            draft_given=_draft_given(context),
            pictures=Pictures.from_options(trace, plot, plot_window, live),
            batch=batch_options.files(prompts, output, resume, parallel),
        ),
    )


def _draft_given(context: typer.Context) -> tuple[str, ...]:
    """The fields of DraftConfig whose options are on the command line."""
    sources = {
        each.name: context.get_parameter_source(f"draft_{each.name.removeprefix('n_')}")
        for each in fields(DraftConfig)
    }
    return tuple(name for name, source in sources.items() if source and source.name != "DEFAULT")


def _run(config: generate_config.GenerateConfig) -> int:
    from pipeinfer_cli.commands.start import generate as run

    return run(config)
