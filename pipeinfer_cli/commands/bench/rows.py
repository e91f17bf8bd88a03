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

# The KV cache and the attention of this engine have one form.
FIXED: Row = {"type_k": "f16", "type_v": "f16", "flash_attn": True, "n_depth": 0}


def row(group: BenchGroup, pipeline: PipelineInfo, summary: Summary, machine: Row) -> Row:
    """One variant as plain values by column, in the columns' order."""
    variant, stats = summary.variant, summary.stats.as_dict()
    values: Row = {
        **machine,
        **{name: getattr(pipeline, name) for name in _names(PipelineInfo)},
        "n_ubatch": pipeline.n_batch,
        **FIXED,
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
    assert values.keys() == COLUMNS.keys(), values.keys() ^ COLUMNS.keys()
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


def _sql_type(annotation: str) -> str:
    return {"int": "INTEGER", "bool": "INTEGER", "float": "REAL"}.get(annotation, "TEXT")


def _of_class(cls: Any) -> dict[str, str]:
    return {field.name: _sql_type(str(field.type)) for field in dataclasses.fields(cls)}


# llama-bench's fields, in its order; what it has for GPUs and NUMA is left out.
LLAMA_BENCH = {
    "build_commit": "TEXT",
    "build_number": "INTEGER",
    "cpu_info": "TEXT",
    "gpu_info": "TEXT",
    "backends": "TEXT",
    "model_filename": "TEXT",
    "model_type": "TEXT",
    "model_size": "INTEGER",
    "model_n_params": "INTEGER",
    "n_batch": "INTEGER",
    "n_ubatch": "INTEGER",
    "n_threads": "INTEGER",
    "type_k": "TEXT",
    "type_v": "TEXT",
    "flash_attn": "INTEGER",
    "n_prompt": "INTEGER",
    "n_gen": "INTEGER",
    "n_depth": "INTEGER",
    "test_time": "TEXT",
    "avg_ns": "INTEGER",
    "stddev_ns": "INTEGER",
    "avg_ts": "REAL",
    "stddev_ts": "REAL",
}
OURS = {
    "strategy": "TEXT",
    "drafter": "TEXT",
    "draft_model": "TEXT",
    **{draft_column(name): kind for name, kind in _of_class(DraftConfig).items()},
    "emulate": "TEXT",
    "synth_acceptance": "TEXT",
    "n_late": "INTEGER",
    "n_ranks": "INTEGER",
    "n_stages": "INTEGER",
    "median_ts": "REAL",
    "p10_ts": "REAL",
    "p90_ts": "REAL",
    "speedup": "REAL",
    "speedup_over_speculative": "REAL",
    "identical": "INTEGER",
    "acceptance": "REAL",
    "n_ctx": "INTEGER",
    "temperature": "REAL",
    "seed": "INTEGER",
    "n_prompts": "INTEGER",
    "repetitions": "INTEGER",
    "pipeinfer_version": "TEXT",
    "llama_cpp": "TEXT",
    "mpi": "TEXT",
    "host": "TEXT",
}
# name -> type in SQL
COLUMNS = {
    **LLAMA_BENCH,
    **OURS,
    **{
        name: kind for name, kind in _of_class(Stats).items() if name not in {**LLAMA_BENCH, **OURS}
    },
    "samples_ns": "TEXT",
    "samples_ts": "TEXT",
}
