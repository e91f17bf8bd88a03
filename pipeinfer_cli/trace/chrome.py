"""A timeline as a Chrome trace: JSON for Perfetto and chrome://tracing.

The Trace Event Format: complete events (`X`) are slices that do not overlap on a row; a cancel is a
flow (`s` to `f`) from a slice of the head's row to the slice that it ended; `i` are instants, `C`
counters, `M` names. Times in microseconds. chrome://tracing colours by `cname`; Perfetto by a
slice's name without its numbers, which is why names begin with the outcome.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeinfer_cli import files
from pipeinfer_cli.errors import RunError
from pipeinfer_cli.trace.timeline import Outcome, Timeline, Transfer, lanes

Event = dict[str, Any]

PID = 1
HEAD_ROW = 1
DRAFTER_ROW = 2
ROWS_PER_PLACE = 100  # a link's messages overtake each other's ends: on rows of their own
CANCEL_US = 20.0  # how long a cancel is drawn; it takes no time to speak of
COLOURS = {  # of chrome://tracing's reserved names
    Outcome.PREFILL: "generic_work",
    Outcome.ACCEPTED: "good",
    Outcome.WRONG: "bad",
    Outcome.ABORTED: "terrible",
    Outcome.CANCELLED: "grey",
}
DRAFT_COLOUR = "thread_state_runnable"


def write(timeline: Timeline, path: Path, about: Mapping[str, Any]) -> None:
    """Writes the trace; `about` (strategy, stats, ...) goes into it as metadata."""
    try:
        files.write_text(path, json.dumps(as_trace(timeline, about), separators=(",", ":")))
    except OSError as error:
        raise RunError(f"cannot write the trace {str(path)!r}: {error.strerror}") from None


def as_trace(timeline: Timeline, about: Mapping[str, Any]) -> dict[str, Any]:
    """The trace as a JSON object."""
    clocks = "stages on other hosts are aligned by an estimate" if timeline.is_estimated else "one"
    return {
        "displayTimeUnit": "ms",
        "otherData": {**about, "clocks": clocks, "offsets_s": list(timeline.offsets_s)},
        "traceEvents": [*_Events(timeline).all()],
    }


class _Events:
    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        starts_s = [timeline.recording.start_s, *(each.begin_s for each in timeline.drafts)]
        self._base_s = min(starts_s)

    def all(self) -> Iterator[Event]:
        """Every event; slices before the flows that bind to them."""
        links = self._links()
        yield from self._names(links)
        yield from self._drafts()
        yield from self._stages()
        for row, transfer in links:
            yield self._link(row, transfer)
        yield from self._head()
        yield from self._cancels()
        yield from self._counters()

    def _us(self, time_s: float) -> float:
        return round((time_s - self._base_s) * 1e6, 3)

    def _slice(self, row: int, name: str, cat: str, interval: tuple[float, float]) -> Event:
        begin_us, end_us = self._us(interval[0]), self._us(interval[1])
        duration_us = round(max(0.0, end_us - begin_us), 3)
        return _event("X", row, name, cat, begin_us) | {"dur": duration_us}

    def _names(self, links: Iterable[tuple[int, Transfer]]) -> Iterator[Event]:
        n_stages = self._timeline.recording.n_stages
        names = {HEAD_ROW: "head", DRAFTER_ROW: "drafter"}
        names |= {_stage_row(stage): f"stage {stage}" for stage in range(n_stages)}
        for row, transfer in links:
            names[row] = _link_name(transfer.link, n_stages)
        yield _metadata("process_name", 0, name="pipeinfer")
        for row, name in sorted(names.items()):
            yield _metadata("thread_name", row, name=name)
            yield _metadata("thread_sort_index", row, sort_index=row)

    def _drafts(self) -> Iterator[Event]:
        for draft in self._timeline.drafts:
            event = self._slice(DRAFTER_ROW, "draft", "draft", (draft.begin_s, draft.end_s))
            yield event | {"cname": DRAFT_COLOUR}

    def _stages(self) -> Iterator[Event]:
        for span in self._timeline.spans:
            name = f"{span.outcome.value} {span.run_id}"
            interval = (span.begin_s, span.end_s)
            yield self._slice(_stage_row(span.stage), name, "stage", interval) | {
                "cname": COLOURS[span.outcome],
                "args": {
                    "run": span.run_id,
                    "outcome": span.outcome.value,
                    "tokens": span.n_tokens,
                    "right": span.n_right,
                    "speculative": span.n_speculative,
                },
            }

    def _links(self) -> list[tuple[int, Transfer]]:
        """Transfers with their rows."""
        rows = []
        for link in range(self._timeline.recording.n_stages + 1):
            transfers = [each for each in self._timeline.transfers if each.link == link]
            transfers.sort(key=lambda each: each.begin_s)
            chosen = lanes([(self._us(each.begin_s), self._us(each.end_s)) for each in transfers])
            first = _stage_row(link) - ROWS_PER_PLACE // 2
            rows += [(first + lane, each) for lane, each in zip(chosen, transfers, strict=True)]
        return rows

    def _link(self, row: int, transfer: Transfer) -> Event:
        name = f"{transfer.outcome.value} {transfer.run_id}"
        return self._slice(row, name, "link", (transfer.begin_s, transfer.end_s)) | {
            "cname": COLOURS[transfer.outcome],
            "args": {"run": transfer.run_id, "bytes": transfer.n_bytes},
        }

    def _head(self) -> Iterator[Event]:
        """What the head decided, as instants: also of runs that were still in flight at the end."""
        for record in self._timeline.recording.runs:
            run, result = record.run, record.result
            yield self._instant(f"submit {run.run_id}", record.submit_s) | {
                "args": {
                    "run": run.run_id,
                    "tokens": len(run.tokens),
                    "positions": [token.position for token in run.tokens],
                    "speculative": record.n_speculative,
                },
            }
            if result is not None:
                yield self._instant(f"result {run.run_id}", record.result_s) | {
                    "args": {
                        "run": run.run_id,
                        "fate": result.status.name.lower(),
                        "decided": list(record.decided),
                        "accepted": record.n_accepted,
                    },
                }

    def _instant(self, name: str, time_s: float) -> Event:
        return _event("i", HEAD_ROW, name, "head", self._us(time_s)) | {"s": "t"}

    def _cancels(self) -> Iterator[Event]:
        cancels = self._timeline.recording.cancels
        nexts_s = [*(each.time_s for each in cancels[1:]), math.inf]
        for cancel, next_s in zip(cancels, nexts_s, strict=False):
            interval = (cancel.time_s, min(cancel.time_s + CANCEL_US / 1e6, next_s))
            name = f"cancel {cancel.run_first}-{cancel.run_last}"
            yield self._slice(HEAD_ROW, name, "cancel", interval) | {
                "cname": COLOURS[Outcome.ABORTED],
                "args": {"run_first": cancel.run_first, "run_last": cancel.run_last},
            }
        for index, effect in enumerate(self._timeline.effects, start=1):
            # It takes effect where the slice ends, and must be within it to bind.
            begin_us, end_us = self._us(effect.span.begin_s), self._us(effect.span.end_s)
            ends_us = round(max(begin_us, self._us(effect.sent_s), end_us - 0.5), 3)
            yield _flow("s", HEAD_ROW, index, self._us(effect.sent_s))
            yield _flow("f", _stage_row(effect.span.stage), index, min(ends_us, end_us)) | {
                "bp": "e"
            }

    def _counters(self) -> Iterator[Event]:
        changes = []
        n_text = 0
        for record in self._timeline.recording.runs:
            changes.append((record.submit_s, 1, 0))
            if record.result is not None:
                changes.append((record.result_s, -1, len(record.decided)))
        n_in_flight = 0
        for time_s, change, n_decided in sorted(changes):
            n_in_flight += change
            n_text += n_decided
            now_us = self._us(time_s)
            yield _event("C", 0, "runs in flight", "head", now_us) | {"args": {"runs": n_in_flight}}
            if n_decided:
                yield _event("C", 0, "tokens", "head", now_us) | {"args": {"tokens": n_text}}


def _stage_row(stage: int) -> int:
    return (stage + 1) * ROWS_PER_PLACE


def _link_name(link: int, n_stages: int) -> str:
    begin = "head" if link == 0 else f"stage {link - 1}"
    end = "head" if link == n_stages else f"stage {link}"
    return f"{begin} to {end}"


def _event(phase: str, row: int, name: str, cat: str, time_us: float) -> Event:
    return {"ph": phase, "pid": PID, "tid": row, "name": name, "cat": cat, "ts": time_us}


def _flow(phase: str, row: int, index: int, time_us: float) -> Event:
    return _event(phase, row, "cancel", "cancel", time_us) | {"id": index}


def _metadata(kind: str, row: int, **args: str | int) -> Event:
    return {"ph": "M", "pid": PID, "tid": row, "name": kind, "ts": 0, "args": args}
