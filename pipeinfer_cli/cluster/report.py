"""What simulate prints: limits and predictions for people, or all in one for programs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pipeinfer_cli import tables
from pipeinfer_cli.tables import Column, Record

FORMATS = ("auto", "md", "json", "csv")  # auto: drawn on a terminal, else md
SHOWN = {  # of limits and predictions: field, heading in the table and format of its values
    "profile": ("profile", ""),
    "n_stages": ("stages", ""),
    "draft_ms": ("draft ms", ".4g"),
    "acceptance": ("acceptance", ""),
    "strategy": ("strategy", ""),
    "drafter": ("drafter", ""),
    "draft_max": ("draft max", ""),
    "draft_width": ("width", ""),
    "tokens_per_s": ("tok/s", ".2f"),
    "bound_tps": ("bound", ".2f"),
    "speedup": ("x iterative", ".2f"),
    "over_speculative": ("x speculative", ".2f"),
    "utilisation": ("utilisation", ".0%"),
    "wasted": ("wasted", ".0%"),
    "n_runs": ("runs", ""),
    "n_invalidated": ("invalidated", ""),
    "n_cancels": ("cancels", ""),
    "chain_tps": ("mean of ideal chains", ".2f"),
    "iterative_tps": ("iterative", ".2f"),
    "pipeline_tps": ("runs of one token", ".1f"),
    "batched_tps": ("best runs", ".1f"),
    "batch": ("of tokens", ""),
    "drafted_tps": ("with this drafter", ".1f"),
    "oracle_tps": ("oracle drafter", ".1f"),
}
TEXTS = ("profile", "acceptance", "strategy", "drafter")


FIRST = {  # of each table, where there is not room for all of it
    "Limits, in tok/s": ("profile", "stages", "iterative", "best runs"),
    "Predictions": ("strategy", "draft max", "tok/s", "x iterative", "x speculative", "bound"),
}


def report(output: str, sections: Sequence[tuple[Any, Sequence[Any]]]) -> None:
    """Prints the sections: each is of one profile, its limits and its predictions.

    For people a table of limits and one of predictions; else each prediction with its limits.
    """
    if output in ("json", "csv"):
        records = [asdict(limits) | asdict(each) for limits, found in sections for each in found]
        form = tables.Json() if output == "json" else tables.Csv(list(records[0]))
        print(tables.text_of(form, records), end="")
        return
    all_records = (
        [asdict(limits) for limits, _ in sections],
        [asdict(each) for _, found in sections for each in found],
    )
    for index, (title, records) in enumerate(zip(FIRST, all_records, strict=True)):
        columns = [_column(field) for field in SHOWN if field in records[0]]
        if output == "auto" and sys.stdout.isatty():
            print(end="\n" * bool(index))
            tables.draw(columns, records, first=_first(title, records), title=title)
        else:
            table = tables.text_of(tables.Markdown(tables.fitted(columns, records)), records)
            print("\n" * bool(index) + f"{title}:\n\n{table}", end="")


def _first(title: str, records: Sequence[Record]) -> list[str]:
    """What a row is about, as far as that differs, before its values; 0: nothing is drafted."""
    about = ("profile", "n_stages", "acceptance", "strategy", "drafter", "draft_max", "draft_width")
    differing = [
        SHOWN[field][0]
        for field in about
        if field in records[0] and len({record[field] for record in records} - {0, "none"}) > 1
    ]
    return list(dict.fromkeys((*differing, *FIRST[title])))


def _column(field: str) -> Column:
    name, form = SHOWN[field]
    return Column(name, lambda record: _text(record[field], form), numeric=field not in TEXTS)


def _text(value: Any, form: str) -> str:
    return "auto" if value is None else format(value, form)
