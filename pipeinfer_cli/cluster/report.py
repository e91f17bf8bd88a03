"""Records as a table for people, or as JSON or CSV for programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

FORMATS = ("md", "json", "csv")
SHOWN = {  # of limits and predictions: field, heading and format in the table
    "profile": ("profile", "{}"),
    "n_stages": ("stages", "{}"),
    "draft_ms": ("draft ms", "{:.4g}"),
    "acceptance": ("acceptance", "{}"),
    "strategy": ("strategy", "{}"),
    "draft_max": ("draft max", "{}"),
    "draft_width": ("width", "{}"),
    "tokens_per_s": ("tok/s", "{:.2f}"),
    "chain_tps": ("ideal chains", "{:.2f}"),
    "speedup": ("x iterative", "{:.2f}"),
    "over_speculative": ("x speculative", "{:.2f}"),
    "utilisation": ("utilisation", "{:.0%}"),
    "wasted": ("wasted", "{:.0%}"),
    "n_runs": ("runs", "{}"),
    "n_invalidated": ("invalidated", "{}"),
    "n_cancels": ("cancels", "{}"),
    "iterative_tps": ("iterative", "{:.2f}"),
    "pipeline_tps": ("pipeline bound", "{:.1f}"),
    "batched_tps": ("with best runs", "{:.1f}"),
    "batch": ("of tokens", "{}"),
    "draft_tps": ("draft bound", "{:.1f}"),
    "oracle_tps": ("oracle drafter", "{:.1f}"),
}


def formatted(output: str, sections: Sequence[tuple[Any, Sequence[Any]]]) -> str:
    """`md`: a table of limits and one of predictions; else each prediction with its limits.

    A section is of one profile: its limits and its predictions.
    """
    if output == "md":
        limits = _table([limits for limits, _ in sections])
        predictions = _table([each for _, predictions in sections for each in predictions])
        return f"Limits, in tok/s:\n\n{limits}\n\nPredictions:\n\n{predictions}"
    records = [
        asdict(limits) | asdict(each) for limits, predictions in sections for each in predictions
    ]
    if output == "json":
        return json.dumps(records, indent=1)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().removesuffix("\n")


def _table(records: Sequence[Any]) -> str:
    """Markdown, with columns of even width."""
    keys = [key for key in SHOWN if hasattr(records[0], key)]
    rows = [[SHOWN[key][0] for key in keys]]
    rows += [[SHOWN[key][1].format(getattr(each, key)) for key in keys] for each in records]
    widths = [max(len(row[i]) for row in rows) for i in range(len(keys))]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
