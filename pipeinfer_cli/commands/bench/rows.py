"""The columns of a bench: llama-bench's where it has them, and ours."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from pipeinfer_cli.commands.bench.config import BenchGroup, draft_option
from pipeinfer_cli.commands.bench.record import PipelineInfo
from pipeinfer_cli.commands.bench.summary import Summary
from pipeinfer_cli.scheduler.metrics import Stats
from pipeinfer_cli.scheduler.policy import DraftConfig

Row = dict[str, Any]

# The attention of this engine has one form.
FIXED: Row = {"flash_attn": True, "n_depth": 0}


def row(group: BenchGroup, pipeline: PipelineInfo, summary: Summary, machine: Row) -> Row:
    """One variant as plain values by column, in the columns' order."""
    variant, stats = summary.variant, summary.stats.as_dict()
    values: Row = {
        **machine,
        **{name: getattr(pipeline, name) for name in _names(PipelineInfo)},
        "n_ubatch": pipeline.n_batch,
        **FIXED,
        "type_k": group.cache_types.k,
        "type_v": group.cache_types.v,
        "n_gen": group.n_predict,
        "test_time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "avg_ns": summary.avg_ns,
        "stddev_ns": summary.stddev_ns,
        "avg_ts": summary.avg_ts,
        "stddev_ts": summary.stddev_ts,
        **stats,
        "acceptance": stats["acceptance_rate"],
        "drafter": "synthetic" if variant.draft and group.synth_acceptance else variant.drafter,
        "draft_model": Path(variant.draft_model).name if variant.draft_model else None,
        **_draft_columns(variant.draft),
        "emulate": Path(group.emulate).stem if group.emulate else None,
        "synth_acceptance": group.synth_acceptance,
        "n_late": summary.n_late,
        "n_ctx": group.n_ctx,
        "temperature": group.sample.temperature,
        "seed": group.sample.seed,
        "n_prompts": summary.n_prompts,
        "repetitions": len(summary.samples_ts),
        "median_ts": summary.median_ts,
        "p10_ts": summary.p10_ts,
        "p90_ts": summary.p90_ts,
        "speedup": summary.speedup,
        "speedup_over_speculative": summary.speedup_over_speculative,
        "identical": summary.identical,
        "samples_ns": summary.samples_ns,
        "samples_ts": summary.samples_ts,
    }
    assert values.keys() == set(COLUMNS), values.keys() ^ set(COLUMNS)
    return {name: _plain(values[name]) for name in COLUMNS}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _names(cls: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]


def _draft_columns(draft: DraftConfig | None) -> Row:
    return {
        draft_column(name): None if draft is None else getattr(draft, name)
        for name in _names(DraftConfig)
    }


def draft_column(field: str) -> str:
    """As its option: `draft_max` for `n_max`."""
    return draft_option(field).removeprefix("--").replace("-", "_")


# llama-bench's fields, in its order; what it has for GPUs and NUMA is left out.
LLAMA_BENCH = (
    *("build_commit", "build_number", "cpu_info", "gpu_info", "backends"),
    *("model_filename", "model_type", "model_size", "model_n_params"),
    *("n_batch", "n_ubatch", "n_threads", "type_k", "type_v", "flash_attn"),
    *("n_prompt", "n_gen", "n_depth", "test_time", "avg_ns", "stddev_ns", "avg_ts", "stddev_ts"),
)
OURS = (
    *("strategy", "drafter", "draft_model", *map(draft_column, _names(DraftConfig))),
    *("emulate", "synth_acceptance", "n_late", "n_ranks", "n_stages"),
    *("median_ts", "p10_ts", "p90_ts", "speedup", "speedup_over_speculative", "identical"),
    *("exact", "acceptance", "n_ctx", "temperature", "seed", "n_prompts", "repetitions"),
    *("pipeinfer_version", "llama_cpp", "mpi", "host"),
)
COLUMNS = tuple(  # each once, where it comes first
    dict.fromkeys((*LLAMA_BENCH, *OURS, *_names(Stats), "samples_ns", "samples_ts"))
)
TEXTS = {  # and lists
    *("build_commit", "cpu_info", "gpu_info", "backends", "model_filename", "model_type"),
    *("type_k", "type_v", "test_time", "strategy", "drafter", "draft_model", "emulate"),
    *("synth_acceptance", "pipeinfer_version", "llama_cpp", "mpi", "host"),
    *(each.name for each in dataclasses.fields(Stats) if each.type not in ("int", "float")),
    *("samples_ns", "samples_ts"),
}
NUMBERS = frozenset(COLUMNS) - TEXTS
