"""Observes one request for its pictures: the interface of this package for jobs."""

from __future__ import annotations

import codecs
import io
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from pipeinfer_cli import console
from pipeinfer_cli.scheduler.interfaces import Drafter, Observer
from pipeinfer_cli.scheduler.metrics import RequestInfo, Stats
from pipeinfer_cli.trace import chrome
from pipeinfer_cli.trace.config import Pictures
from pipeinfer_cli.trace.live import LiveView
from pipeinfer_cli.trace.recorder import Recorder, Recording, TimedDrafter
from pipeinfer_cli.trace.timeline import timeline


class RequestTracer:
    """What goes between a request and the rest, so that pictures can be made of it."""

    def __init__(self, recorder: Recorder | None, stdout: TextIO, label: str = "") -> None:
        self._recorder = recorder
        self._label = label
        self._recording: Recording | None = None
        self.stdout = stdout  # where the text goes

    @property
    def observer(self) -> Observer | None:
        """To be told what the head's loop does."""
        return self._recorder

    def drafter(self, drafter: Drafter | None) -> Drafter | None:
        """The same drafter; its work is recorded if need be."""
        if drafter is None or self._recorder is None:
            return drafter
        return TimedDrafter(drafter, self._recorder.on_drafted)

    def finish(self) -> None:
        """The text is complete: what happens from now on is not part of the pictures.

        Only the first call counts.
        """
        if self._recorder is not None and self._recording is None:
            self._recording = self._recorder.recording()

    def write_files(self, pictures: Pictures, stats: Stats) -> None:
        """Writes the pictures that were asked for as files. RunError if one cannot be written."""
        if self._recording is None or not (pictures.trace or pictures.plot):
            return
        drawn = timeline(self._recording)
        if pictures.trace is not None:
            chrome.write(drawn, Path(pictures.trace), _about(stats, self._label))
        if pictures.plot is not None:
            from pipeinfer_cli.trace import gantt

            run = gantt.Chart(title=_title(stats, self._label), timeline=drawn)
            gantt.plot_runs([run], Path(pictures.plot), window_ms=pictures.plot_window_ms)


@contextmanager
def tracing(pictures: Pictures, info: RequestInfo, label: str = "") -> Iterator[RequestTracer]:
    """A tracer while the block runs, with its panel on the terminal if that was asked for.

    `label` says on all pictures what is not real; see cluster.emulation.EmulationSettings.
    """
    is_wanted = pictures.trace or pictures.plot or pictures.live
    if not is_wanted:
        yield RequestTracer(None, sys.stdout)
        return
    recorder = Recorder(n_prompt=info.n_prompt, n_stages=info.n_stages)
    with ExitStack() as stack:
        stdout = sys.stdout
        if pictures.terminal is not None:
            view = LiveView(recorder, f"pipeinfer --strategy {info.strategy}{label}")
            show = partial(_now, view)
            put = stack.enter_context(console.live_panel(show, pictures.terminal))
            if pictures.terminal.has_stdout:
                stdout = _text_to(put)
        elif pictures.live:
            console.note("no --live panel: stderr is not a terminal")
        yield RequestTracer(recorder, stdout, label)


def _now(view: LiveView) -> Any:
    return view.panel(time.monotonic())


def _title(stats: Stats, label: str) -> str:
    stages = f"{stats.n_stages} stage" + "s" * (stats.n_stages != 1)
    return f"{stats.strategy}, {stages}{label}: {stats.tokens_per_s:.1f} tokens/s"


def _about(stats: Stats, label: str) -> dict[str, Any]:
    return {"program": f"pipeinfer{label}", **stats.as_dict()}


def _text_to(put: Callable[[str], None]) -> TextIO:
    return io.TextIOWrapper(io.BufferedWriter(_Sink(put)), encoding="utf-8")


class _Sink(io.RawIOBase):
    """Hands text on, in whole characters."""

    def __init__(self, put: Callable[[str], None]) -> None:
        super().__init__()
        self._put = put
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        piece = bytes(data)
        self._put(self._decoder.decode(piece))
        return len(piece)
