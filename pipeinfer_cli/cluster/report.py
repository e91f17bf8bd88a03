"""What simulate prints: limits and predictions for people, or all in one for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pipeinfer_cli import tables
from pipeinfer_cli.tables import Column, Record

FORMATS = ("md", "json", "csv")
SHOWN = {  # of limits and predictions: field, heading in the table and format of its values
    "profile": ("profile", ""),
    "n_stages": ("stages", ""),
    "draft_ms": ("draft ms", ".4g"),
    "acceptance": ("acceptance", ""),
    "strategy": ("strategy", ""),
    "draft_max": ("draft max", ""),
    "draft_width": ("width", ""),
    "tokens_per_s": ("tok/s", ".2f"),
    "chain_tps": ("ideal chains", ".2f"),
    "speedup": ("x iterative", ".2f"),
    "over_speculative": ("x speculative", ".2f"),
    "utilisation": ("utilisation", ".0%"),
    "wasted": ("wasted", ".0%"),
    "n_runs": ("runs", ""),
    "n_invalidated": ("invalidated", ""),
    "n_cancels": ("cancels", ""),
    "iterative_tps": ("iterative", ".2f"),
    "pipeline_tps": ("pipeline bound", ".1f"),
    "batched_tps": ("with best runs", ".1f"),
    "batch": ("of tokens", ""),
    "draft_tps": ("draft bound", ".1f"),
    "oracle_tps": ("oracle drafter", ".1f"),
}
TEXTS = ("profile", "acceptance", "strategy")


def formatted(output: str, sections: Sequence[tuple[Any, Sequence[Any]]]) -> str:
    """`md`: a table of limits and one of predictions; else each prediction with its limits.

    A section is of one profile: its limits and its predictions.
    """
    if output == "md":
        limits = _table([asdict(limits) for limits, _ in sections])
        predictions = _table([asdict(each) for _, found in sections for each in found])
        return f"Limits, in tok/s:\n\n{limits}\nPredictions:\n\n{predictions}"
    records = [asdict(limits) | asdict(each) for limits, found in sections for each in found]
    form = tables.Json() if output == "json" else tables.Csv(list(records[0]))
    return tables.text_of(form, records)


def _table(records: Sequence[Record]) -> str:
    columns = [_column(field) for field in SHOWN if field in records[0]]
    return tables.text_of(tables.Markdown(tables.fitted(columns, records)), records)


def _column(field: str) -> Column:
    name, form = SHOWN[field]
    return Column(name, lambda record: format(record[field], form), numeric=field not in TEXTS)
