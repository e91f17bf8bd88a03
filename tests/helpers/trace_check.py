"""Checks of trace files: the format's rules, agreement with --stats, moments worth a look.

The rules are those of the Trace Event Format (its document is linked from perfetto.dev/docs) and of
what Perfetto asks beyond it: slices of a row do not overlap unless they nest.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

Event = dict[str, Any]

# Of chrome://tracing's colour scheme: another name is an error there.
RESERVED_COLOURS = {"generic_work", "good", "bad", "terrible", "grey", "thread_state_runnable"}
EXACT_US = 0.002  # times are rounded to nanoseconds
PHASES = {"X", "i", "C", "M", "s", "f"}


def load(path: Path) -> dict[str, Any]:
    """The trace; NaN and infinity, which are not JSON, are refused."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    trace: dict[str, Any] = json.loads(path.read_text(), parse_constant=refuse)
    return trace


def check_format(trace: dict[str, Any]) -> None:
    """Asserts the format's rules."""
    events = trace["traceEvents"]
    assert events
    for event in events:
        assert event["ph"] in PHASES, event
        assert event["pid"] == 1 and isinstance(event["tid"], int), event
        assert event["name"] and event["ts"] >= 0, event
        assert event.get("cname", "good") in RESERVED_COLOURS, event
        if event["ph"] == "X":
            assert event["dur"] >= 0, event
        if event["ph"] == "i":
            assert event["s"] == "t", event
        if event["ph"] == "C":
            assert all(value >= 0 for value in event["args"].values()), event
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    rows = defaultdict(list)
    for event in slices(trace):
        assert event["tid"] in names, f"a row without a name: {event}"
        rows[event["tid"]].append(event)
    for row in rows.values():
        row.sort(key=lambda event: event["ts"])
        for before, after in zip(row, row[1:], strict=False):
            assert before["ts"] + before["dur"] <= after["ts"] + EXACT_US, (before, after)
    check_flows(trace, rows)


def check_flows(trace: dict[str, Any], rows: dict[int, list[Event]]) -> None:
    """Asserts that each flow has one begin and one end, and both lie in a slice."""
    flows = defaultdict(list)
    for event in trace["traceEvents"]:
        if event["ph"] in "sf":
            flows[event["cat"], event["name"], event["id"]].append(event)
    for begin, end in flows.values():
        assert (begin["ph"], end["ph"], end["bp"]) == ("s", "f", "e")
        assert begin["ts"] <= end["ts"] + EXACT_US, "an effect before its cause"
        for event in (begin, end):
            assert slice_at(rows[event["tid"]], event["ts"]) is not None, event


def slice_at(row: list[Event], time_us: float) -> Event | None:
    """The slice of a row that contains the time."""
    return next((e for e in row if e["ts"] <= time_us <= e["ts"] + e["dur"] + EXACT_US), None)


def slices(trace: dict[str, Any], cat: str | None = None) -> list[Event]:
    """The slices of a category, or all."""
    return [e for e in trace["traceEvents"] if e["ph"] == "X" and cat in (None, e["cat"])]


def stage_rows(trace: dict[str, Any]) -> list[list[Event]]:
    """The slices of each stage."""
    rows = defaultdict(list)
    for event in slices(trace, "stage"):
        rows[event["tid"]].append(event)
    return [rows[row] for row in sorted(rows)]


def check_agrees(trace: dict[str, Any], stats: dict[str, Any]) -> None:
    """Asserts that the trace's counts and sums are those of --stats."""
    head = [e for e in trace["traceEvents"] if e["ph"] == "i"]
    submitted = [e["args"] for e in head if e["name"].startswith("submit ")]
    answered = [e["args"] for e in head if e["name"].startswith("result ")]
    statuses = [each["fate"] for each in answered]
    computed = slices(trace, "stage")
    aborted = {e["args"]["run"] for e in computed if e["args"]["outcome"] == "aborted"}
    assert len(submitted) == stats["n_runs"]
    assert statuses.count("completed") == stats["n_completed"]
    assert statuses.count("cancelled") == stats["n_cancelled"]
    assert len(aborted) == stats["n_aborted"]
    assert sum(each["speculative"] for each in submitted) == stats["n_drafted"]
    assert sum(each["accepted"] for each in answered) == stats["n_accepted"]
    assert sum(len(each["decided"]) for each in answered) >= stats["n_generated"]
    rows = stage_rows(trace)
    assert len(rows) == stats["n_stages"]
    for row, busy_ms, wasted_ms in zip(rows, stats["busy_ms"], stats["wasted_ms"], strict=True):
        assert abs(sum(e["dur"] for e in row) / 1000 - busy_ms) < 0.001 * len(row)
        assert abs(sum(wasted_us(e) for e in row) / 1000 - wasted_ms) < 0.001 * len(row)
    links = slices(trace, "link")
    n_generated = stats["n_generated"]
    assert len(links) == round(stats["messages_per_token"] * n_generated)
    assert sum(e["args"]["bytes"] for e in links) == round(stats["bytes_per_token"] * n_generated)


def wasted_us(event: Event) -> float:
    """Of a stage's slice, what went to tokens that are not in the text."""
    args = event["args"]
    return float(event["dur"] * (args["tokens"] - args["right"]) / args["tokens"])


def overlaps(trace: dict[str, Any]) -> list[tuple[float, str]]:
    """Moments (us) when a cancel is sent while the run is computed, and all others work, too.

    That is: a token is drafted, every stage computes a run, and one of these is aborted by that
    cancel. With a line that says what is seen.
    """
    drafts, rows = slices(trace, "draft"), stage_rows(trace)
    sent = [e for e in trace["traceEvents"] if e["ph"] == "s"]
    ended = {e["id"]: e for e in trace["traceEvents"] if e["ph"] == "f"}
    found = []
    for flow in sent:
        at_us = flow["ts"]
        (effect_row,) = [row for row in rows if row[0]["tid"] == ended[flow["id"]]["tid"]]
        effect = slice_at(effect_row, ended[flow["id"]]["ts"])
        draft, busy = slice_at(drafts, at_us), [slice_at(row, at_us) for row in rows]
        if draft and all(busy) and any(effect is each for each in busy):
            assert effect is not None and effect["args"]["outcome"] == "aborted"
            names = [f"stage {i} {e['name']}" for i, e in enumerate(busy) if e is not None]
            late_us = effect["ts"] + effect["dur"] - at_us
            line = f"drafting; {'; '.join(names)}; aborted {late_us:.0f} us after the cancel"
            found.append((at_us, line))
    return found
