"""The command `pipeinfer serve`."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, cast

import typer

from pipeinfer_cli.checks import MAX_COUNT
from pipeinfer_cli.cli import options
from pipeinfer_cli.cli.options import draft_options, rank_options
from pipeinfer_cli.cli.parsing.values import count_or_rest, integer, number
from pipeinfer_cli.commands.chat.template_options import TemplateOptions
from pipeinfer_cli.commands.generate_config import Prompt
from pipeinfer_cli.commands.serve import config as serve_config
from pipeinfer_cli.commands.serve.config import ServeConfig, ServerOptions
from pipeinfer_cli.engine.config import F16_CACHE, CacheTypes
from pipeinfer_cli.engine.rope import RopeConfig
from pipeinfer_cli.models.adapters import parse_adapters
from pipeinfer_cli.runtime import config as cfg
from pipeinfer_cli.scheduler.policy import DEFAULT_DRAFT, DraftConfig, Strategy
from pipeinfer_cli.scheduler.runs import DEFAULT_SAMPLE

Host = Annotated[
    str,
    typer.Option(
        "--host", metavar="ADDRESS", help="Listen there; 0.0.0.0: on all networks of the node."
    ),
]
Port = Annotated[
    int, typer.Option("--port", parser=integer, metavar="N", help="Listen there; 0: a free one.")
]
Parallel = Annotated[
    int,
    typer.Option(
        "--parallel",
        parser=integer,
        metavar="N",
        help="At most N requests in the pipeline at once; each has room for --ctx-size tokens.",
    ),
]
Queue = Annotated[
    int,
    typer.Option(
        "--queue", parser=integer, metavar="N", help="At most N more wait; others get status 429."
    ),
]
TimeLimit = Annotated[
    float,
    typer.Option(
        "--time-limit",
        parser=number,
        metavar="SECONDS",
        help="End requests that take longer, with their time in the queue.",
    ),
]
Drain = Annotated[
    float,
    typer.Option(
        "--drain",
        parser=number,
        metavar="SECONDS",
        help="What running requests get to end after SIGTERM or Ctrl-C.",
    ),
]
ApiKeyFile = Annotated[
    Path | None,
    typer.Option(
        "--api-key-file",
        metavar="FILE",
        help="Require the API key in this file; default: PIPEINFER_API_KEY, if it is set.",
    ),
]
Cors = Annotated[
    list[str] | None,
    typer.Option(
        "--cors",
        metavar="ORIGIN",
        help="Let pages of this site ask, as https://chat.example; may be repeated.",
    ),
]
Alias = Annotated[
    str | None,
    typer.Option(
        "-a", "--alias", metavar="NAME", help="What clients call the model; default: its file."
    ),
]
WriteUrl = Annotated[
    str | None,
    typer.Option(
        "--write-url",
        metavar="FILE",
        help="Write URL, key and the command for a tunnel there; removed at the end.",
    ),
]


def serve(
    context: typer.Context,
    model: options.Model,
    host: Host = "127.0.0.1",
    port: Port = serve_config.DEFAULT_PORT,
    parallel: Parallel = serve_config.DEFAULT_PARALLEL,
    queue: Queue = serve_config.DEFAULT_QUEUE,
    time_limit_s: TimeLimit = serve_config.DEFAULT_TIME_LIMIT_S,
    drain_s: Drain = serve_config.DEFAULT_DRAIN_S,
    api_key_file: ApiKeyFile = None,
    cors: Cors = None,
    alias: Alias = None,
    write_url: WriteUrl = None,
    n_predict: Annotated[
        int,
        typer.Option(
            "-n",
            "--n-predict",
            parser=count_or_rest,
            metavar="N",
            help="Generate at most N tokens for requests that give no number.",
            show_default="what the context leaves",
        ),
    ] = MAX_COUNT,
    n_ctx: options.CtxSize = cfg.DEFAULT_N_CTX,
    ranks: options.Ranks = None,
    layer_split: options.LayerSplit = "auto",
    threads: rank_options.Threads = None,
    cache_type_k: options.CacheTypeK = F16_CACHE.k,
    cache_type_v: options.CacheTypeV = F16_CACHE.v,
    no_mmap: rank_options.NoMmap = False,
    mlock: rank_options.Mlock = False,
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
    numa: rank_options.Numa = "auto",
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
    chat_template: options.TemplateFile = None,
    chat_template_kwargs: options.TemplateKwargs = "",
    reasoning: options.Reasoning = "auto",
    reasoning_effort: options.ReasoningEffort = None,
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
    log_file: options.LogFile = None,
    verbose: options.Verbose = False,
) -> Callable[[], int]:
    """Answer requests over HTTP, as OpenAI's API has them.

    Anthropic's, too; until a signal comes. Sampling options are for what requests leave open.
    """
    server = ServerOptions(
        host=host,
        port=port,
        parallel=parallel,
        queue=queue,
        time_limit_s=time_limit_s,
        drain_s=drain_s,
        api_key=serve_config.read_api_key(api_key_file, os.environ),
        origins=tuple(cors or ()),
        alias=alias or Path(model).name.removesuffix(".gguf"),
        write_url=write_url,
    )
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
    config = ServeConfig(
        server=server,
        has_seed="--seed" in options.given(context),
        model=model,
        prompt=Prompt(text=""),
        n_predict=n_predict,
        n_ctx=n_ctx,
        ranks=ranks,
        layer_split=layer_split,
        threads=threads,
        cache_types=CacheTypes(cache_type_k, cache_type_v),
        no_mmap=no_mmap,
        mlock=mlock,
        adapters=parse_adapters(lora or ()),
        rope=rope,
        plan_only=plan_only,
        report_binding=report_binding,
        bind=bind,
        numa=numa,
        cpu_variants=cpu_variant or (),
        gpu_layers=gpu_layers or (),
        devices=device or (),
        exact_shape=exact_shape,
        sample=sample,
        ignore_eos=ignore_eos,
        stop=tuple(stop or ()),
        stop_tokens=tuple(stop_token or ()),
        template=TemplateOptions(
            file=chat_template,
            kwargs=chat_template_kwargs,
            reasoning=reasoning,
            effort=reasoning_effort,
        ),
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
        log_file=log_file,
        verbose=verbose,
        given=options.given(context),
        notes=options.notes(context, sample),
    )
    return partial(_run, config)


def _run(config: ServeConfig) -> int:
    from pipeinfer_cli.commands.start import generate

    serve_config.check_installed()
    return generate(config)
