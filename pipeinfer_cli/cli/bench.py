"""The options of `pipeinfer bench`: lists with commas, whose product is measured."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from pipeinfer_cli.cli import options
from pipeinfer_cli.cli.options import draft_options, rank_options
from pipeinfer_cli.cli.parsing.values import integer, listed, number
from pipeinfer_cli.commands import generate_config
from pipeinfer_cli.commands.bench import config as bench_cfg
from pipeinfer_cli.commands.bench.outputs import Outputs
from pipeinfer_cli.engine.config import F16_CACHE, CacheTypes
from pipeinfer_cli.engine.rope import RopeConfig
from pipeinfer_cli.models.adapters import parse_adapters
from pipeinfer_cli.runtime import config as cfg
from pipeinfer_cli.scheduler import policy
from pipeinfer_cli.scheduler.runs import DEFAULT_SAMPLE

STRATEGIES = ",".join(policy.DEFAULT_STRATEGIES)
DRAFT = policy.DEFAULT_DRAFT

Models = Annotated[Any, listed(options.MODEL, "GGUF paths, or models' names.")]
RanksList = Annotated[Any, listed(options.RANKS, "Local ranks; default: one per NUMA node.")]
ThreadsList = Annotated[
    Any,
    listed(
        typer.Option("-t", "--threads", parser=integer, metavar="N"),
        "Threads per rank; default: share of cores.",
    ),
]
Strategies = Annotated[
    Any,
    listed(
        draft_options.STRATEGY,
        "iterative, speculative, pipeinfer, auto; or pipeinfer:paper, chains as in the paper, and "
        "that without a part of it: pipeinfer:no-continuous, :no-cancel, :no-reactive.",
    ),
]
Emulations = Annotated[
    Any,
    listed(options.EMULATE, "Emulate clusters on this host: profiles' names, or TOML files."),
]
Acceptances = Annotated[
    Any,
    listed(
        options.SYNTH_ACCEPTANCE,
        "Draw verdicts instead of the model's: rates (per token ahead: 0.8/0.7).",
    ),
]


def bench(
    context: typer.Context,
    model: Models,
    draft_model: draft_options.DraftModels = "",
    ranks: RanksList = "",
    strategy: Strategies = STRATEGIES,
    drafter: draft_options.Drafters = "",
    draft_max: draft_options.DraftMaxes = "auto",
    draft_min: draft_options.DraftMins = f"{DRAFT.n_min}",
    draft_p_min: draft_options.DraftPMins = f"{DRAFT.p_min:g}",
    draft_p_recovery: draft_options.DraftPRecoveries = f"{DRAFT.p_recovery:g}",
    draft_p_decay: draft_options.DraftPDecays = f"{DRAFT.p_decay:g}",
    draft_width: draft_options.DraftWidths = f"{DRAFT.width}",
    draft_p_split: draft_options.DraftPSplits = f"{DRAFT.p_split:g}",
    draft_threads: draft_options.DraftThreads = None,
    draft_device: draft_options.DraftDevice = None,
    cache_type_k_draft: draft_options.CacheTypeK = F16_CACHE.k,
    cache_type_v_draft: draft_options.CacheTypeV = F16_CACHE.v,
    emulate: Emulations = "",
    draft_ratio: Annotated[
        float | None,
        typer.Option(
            "--draft-ratio",
            parser=number,
            metavar="R",
            help="Emulated: a drafted token's time, as a share of the first stage's for one token.",
        ),
    ] = None,
    synth_acceptance: Acceptances = "",
    prompts: Annotated[
        str,
        typer.Option(
            "-p",
            "--prompts",
            metavar="FILE",
            help="Prompts: .jsonl, or text with lines of --- between; default: a built-in set.",
        ),
    ] = "",
    n_predict: options.NPredict = generate_config.DEFAULT_N_PREDICT,
    repetitions: Annotated[
        int,
        typer.Option(
            "-r",
            "--repetitions",
            parser=integer,
            metavar="N",
            help="Number of repetitions.",
        ),
    ] = bench_cfg.DEFAULT_REPETITIONS,
    no_warmup: Annotated[
        bool, typer.Option("--no-warmup", help="Measure from the first request on.")
    ] = False,
    threads: ThreadsList = "",
    n_ctx: options.CtxSize = cfg.DEFAULT_N_CTX,
    layer_split: options.LayerSplit = "auto",
    bind: rank_options.Bind = "auto",
    cpu_variant: rank_options.CpuVariant = None,
    gpu_layers: rank_options.GpuLayers = None,
    device: rank_options.Device = None,
    list_devices: rank_options.ListDevices = False,  # noqa: ARG001 (it ends the command)
    exact_shape: rank_options.ExactShape = None,
    cache_type_k: options.CacheTypeK = F16_CACHE.k,
    cache_type_v: options.CacheTypeV = F16_CACHE.v,
    no_mmap: rank_options.NoMmap = False,
    mlock: rank_options.Mlock = False,
    numa: rank_options.Numa = "auto",
    lora: options.Lora = None,
    rope_scaling: options.RopeScaling = None,
    rope_scale: options.RopeScale = None,
    rope_freq_base: options.RopeFreqBase = None,
    rope_freq_scale: options.RopeFreqScale = None,
    yarn_orig_ctx: options.YarnOrigCtx = None,
    yarn_ext_factor: options.YarnExtFactor = None,
    yarn_attn_factor: options.YarnAttnFactor = None,
    yarn_beta_slow: options.YarnBetaSlow = None,
    yarn_beta_fast: options.YarnBetaFast = None,
    temp: options.Temp = DEFAULT_SAMPLE.temperature,
    top_k: options.TopK = DEFAULT_SAMPLE.top_k,
    top_p: options.TopP = DEFAULT_SAMPLE.top_p,
    min_p: options.MinP = DEFAULT_SAMPLE.min_p,
    seed: options.Seed = DEFAULT_SAMPLE.seed,
    ignore_eos: options.IgnoreEos = False,
    timeout_s: options.Timeout = cfg.DEFAULT_TIMEOUT_S,
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            metavar="auto|md|csv|json|jsonl",
            help="Format; auto: a table that fits the terminal, Markdown into a pipe.",
        ),
    ] = "auto",
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
            help="Write for each token what the last variant's drafter proposed, for simulate.",
        ),
    ] = "",
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help="Measure stages, links and drafter for later jobs, instead of comparing.",
        ),
    ] = False,
    calibrate_to: Annotated[
        str,
        typer.Option(
            "--calibrate-to",
            metavar="FILE.toml",
            help="As --calibrate; also write the profile there, for --emulate and simulate.",
        ),
    ] = "",
    verbose: options.Verbose = False,
) -> Callable[[], int]:
    """Compare strategies: every variant in turn, on every prompt, through the same pipeline."""
    sample = options.sampling(temp, top_k, top_p, min_p, seed)
    rope = RopeConfig(
        scaling=rope_scaling,
        scale=rope_scale,
        freq_base=rope_freq_base,
        freq_scale=rope_freq_scale,
        yarn_orig_ctx=yarn_orig_ctx,
        yarn_ext_factor=yarn_ext_factor,
        yarn_attn_factor=yarn_attn_factor,
        yarn_beta_slow=yarn_beta_slow,
        yarn_beta_fast=yarn_beta_fast,
    )
    drafts = {
        "n_max": draft_max,
        "n_min": draft_min,
        "p_min": draft_p_min,
        "p_recovery": draft_p_recovery,
        "p_decay": draft_p_decay,
        "width": draft_width,
        "p_split": draft_p_split,
    }
    config = bench_cfg.BenchConfig(
        models=model,
        draft_models=draft_model,
        ranks=ranks or (None,),
        threads=threads or (None,),
        emulate=emulate or (None,),
        synth_acceptance=synth_acceptance or (None,),
        strategies=strategy,
        drafters=drafter,
        draft={name: drafts[name] for name in draft_options.given(context)},
        prompts=prompts or None,
        n_predict=n_predict,
        repetitions=repetitions,
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
            "n_ctx": n_ctx,
            "layer_split": layer_split,
            "bind": bind,
            "cpu_variants": cpu_variant or (),
            "gpu_layers": gpu_layers or (),
            "devices": device or (),
            "exact_shape": exact_shape,
            "cache_types": CacheTypes(cache_type_k, cache_type_v),
            "no_mmap": no_mmap,
            "mlock": mlock,
            "numa": numa,
            "adapters": parse_adapters(lora or ()),
            "rope": rope,
            "draft_threads": draft_threads,
            "draft_device": draft_device,
            "draft_cache_types": draft_options.cache_types(cache_type_k_draft, cache_type_v_draft),
            "draft_ratio": draft_ratio,
            "sample": sample,
            "ignore_eos": ignore_eos,
            "timeout_s": timeout_s,
            "verbose": verbose,
            "given": options.given(context),
            "notes": options.notes(context, sample),
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
