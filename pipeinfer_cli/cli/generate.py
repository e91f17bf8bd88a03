"""The command `pipeinfer generate`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, cast

import typer

from pipeinfer_cli.cli import options
from pipeinfer_cli.cli.options import batch_options, draft_options, rank_options
from pipeinfer_cli.commands import generate_config
from pipeinfer_cli.commands.batch.config import BatchConfig
from pipeinfer_cli.commands.chat.template_options import TemplateOptions
from pipeinfer_cli.commands.escapes import unescape
from pipeinfer_cli.engine.config import F16_CACHE, CacheTypes
from pipeinfer_cli.engine.rope import RopeConfig
from pipeinfer_cli.models.adapters import parse_adapters
from pipeinfer_cli.runtime import config as cfg
from pipeinfer_cli.runtime.grammar.source import GrammarOptions
from pipeinfer_cli.scheduler.policy import DEFAULT_DRAFT, DraftConfig, Strategy
from pipeinfer_cli.scheduler.runs import DEFAULT_SAMPLE
from pipeinfer_cli.trace.config import Pictures


def generate(
    context: typer.Context,
    model: options.Model,
    prompt: Annotated[
        str | None, typer.Argument(help="The prompt; without it (or with -) it is read from stdin.")
    ] = None,
    prompt_text: options.PromptText = None,
    file: Annotated[
        Path | None, typer.Option("-f", "--file", help="A file with the prompt.")
    ] = None,
    escape: options.Escape = False,
    n_predict: options.NPredict = generate_config.DEFAULT_N_PREDICT,
    n_ctx: options.CtxSize = cfg.DEFAULT_N_CTX,
    ranks: options.Ranks = None,
    layer_split: options.LayerSplit = "auto",
    threads: rank_options.Threads = None,
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
    plan_only: options.PlanOnly = False,
    report_binding: rank_options.ReportBinding = False,
    bind: rank_options.Bind = "auto",
    cpu_variant: rank_options.CpuVariant = None,
    gpu_layers: rank_options.GpuLayers = None,
    device: rank_options.Device = None,
    list_devices: rank_options.ListDevices = False,  # noqa: ARG001 (it ends the command)
    exact_shape: rank_options.ExactShape = None,
    temp: options.Temp = DEFAULT_SAMPLE.temperature,
    top_k: options.TopK = DEFAULT_SAMPLE.top_k,
    top_p: options.TopP = DEFAULT_SAMPLE.top_p,
    min_p: options.MinP = DEFAULT_SAMPLE.min_p,
    seed: options.Seed = DEFAULT_SAMPLE.seed,
    ignore_eos: options.IgnoreEos = False,
    stop: options.Stop = None,
    stop_token: options.StopToken = None,
    chat: options.Chat = False,
    system: options.System = None,
    chat_template: options.TemplateFile = None,
    chat_template_kwargs: options.TemplateKwargs = "",
    reasoning: options.Reasoning = "auto",
    reasoning_effort: options.ReasoningEffort = None,
    grammar: options.Grammar = None,
    json_schema: options.JsonSchema = None,
    stats: options.ShowStats = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Decode again without speculation; report differences."),
    ] = False,
    format_: batch_options.Format = "text",
    timeout_s: options.Timeout = cfg.DEFAULT_TIMEOUT_S,
    strategy: draft_options.Strategy = "auto",
    draft_model: draft_options.DraftModel = None,
    drafter: draft_options.Drafter = None,
    draft_max: draft_options.DraftMax = "auto",
    draft_min: draft_options.DraftMin = DEFAULT_DRAFT.n_min,
    draft_p_min: draft_options.DraftPMin = DEFAULT_DRAFT.p_min,
    draft_p_recovery: draft_options.DraftPRecovery = DEFAULT_DRAFT.p_recovery,
    draft_p_decay: draft_options.DraftPDecay = DEFAULT_DRAFT.p_decay,
    draft_width: draft_options.DraftWidth = DEFAULT_DRAFT.width,
    draft_p_split: draft_options.DraftPSplit = DEFAULT_DRAFT.p_split,
    draft_threads: draft_options.DraftThreads = None,
    draft_device: draft_options.DraftDevice = None,
    cache_type_k_draft: draft_options.CacheTypeK = F16_CACHE.k,
    cache_type_v_draft: draft_options.CacheTypeV = F16_CACHE.v,
    prompts: batch_options.Prompts = None,
    output: batch_options.Output = None,
    resume: batch_options.Resume = False,
    parallel: batch_options.Parallel = batch_options.DEFAULT_PARALLEL,
    trace: options.Trace = None,
    plot: options.Plot = None,
    plot_window: options.PlotWindow = None,
    live: options.Live = False,
    emulate: options.Emulate = None,
    synth_acceptance: options.SynthAcceptance = None,
    log_file: options.LogFile = None,
    verbose: options.Verbose = False,
) -> Callable[[], int]:
    """Generate text. Joins the job of mpirun or srun; alone it starts --ranks local ranks."""
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
    files = batch_options.files(prompts, output, resume, parallel)
    make = partial(BatchConfig, files=files) if files else generate_config.GenerateConfig
    config = make(
        model=model,
        prompt=generate_config.Prompt.from_options(prompt, file, prompt_text, escape=escape),
        n_predict=n_predict,
        n_ctx=n_ctx,
        ranks=ranks,
        layer_split=layer_split,
        threads=threads,
        cache_types=CacheTypes(cache_type_k, cache_type_v),
        no_mmap=no_mmap,
        mlock=mlock,
        numa=numa,
        adapters=parse_adapters(lora or ()),
        rope=rope,
        plan_only=plan_only,
        report_binding=report_binding,
        bind=bind,
        cpu_variants=cpu_variant or (),
        gpu_layers=gpu_layers or (),
        devices=device or (),
        exact_shape=exact_shape,
        sample=sample,
        ignore_eos=ignore_eos,
        stop=tuple(unescape(text) if escape else text for text in stop or ()),
        chat=chat,
        stop_tokens=tuple(stop_token or ()),
        system=system,
        template=TemplateOptions(
            file=chat_template,
            kwargs=chat_template_kwargs,
            reasoning=reasoning,
            effort=reasoning_effort,
        ),
        grammar=GrammarOptions(grammar=grammar, json_schema=json_schema),
        stats=stats,
        verify=verify,
        format=generate_config.parse_format(format_),
        timeout_s=timeout_s,
        strategy=cast("Strategy", strategy),
        drafter=draft_options.drafter_kind(drafter, draft_model, strategy, context),
        draft_model=draft_model,
        draft=DraftConfig.of(
            draft_max,
            n_min=draft_min,
            p_min=draft_p_min,
            p_recovery=draft_p_recovery,
            p_decay=draft_p_decay,
            width=draft_width,
            p_split=draft_p_split,
            is_auto=not draft_options.given(context),
        ),
        draft_given=draft_options.given(context),
        draft_threads=draft_threads,
        draft_device=draft_device,
        draft_cache_types=draft_options.cache_types(cache_type_k_draft, cache_type_v_draft),
        pictures=Pictures.from_options(trace, plot, plot_window, live),
        emulate=emulate,
        synth_acceptance=synth_acceptance,
        log_file=log_file,
        verbose=verbose,
        given=options.given(context),
        notes=options.notes(context, sample),
    )
    return partial(_run, config)


def _run(config: generate_config.GenerateConfig) -> int:
    from pipeinfer_cli.commands.start import generate as run

    return run(config)
