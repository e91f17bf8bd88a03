"""The token ids of one request as they are decided."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pipeinfer_cli.runtime.decode_loop import DecodeLoop
from pipeinfer_cli.scheduler.auto import AutoSpeculation
from pipeinfer_cli.scheduler.exchange import Exchange, OneRequest
from pipeinfer_cli.scheduler.interfaces import Drafts, Observer, Pipeline
from pipeinfer_cli.scheduler.scheduler import Scheduler


class TokenStream:
    """One request in the head's loop: iterate over it for the generated token ids.

    They do not end unless `stop_requested` says that the job shall end: the caller stops, and calls
    `finish` before another request uses the pipeline. RunError: see DecodeLoop.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        scheduler: Scheduler,
        *,
        timeout_s: float,
        drafts: Drafts | None = None,
        auto: AutoSpeculation | None = None,
        observer: Observer | None = None,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        self._scheduler = scheduler
        self._stop_requested = stop_requested
        exchange = Exchange(pipeline, OneRequest(scheduler, drafts), auto=auto, observer=observer)
        self._loop = DecodeLoop(pipeline, exchange, timeout_s=timeout_s)

    def __iter__(self) -> Iterator[int]:
        while not self._stop_requested():
            for _, tokens in self._loop.turn():
                yield from tokens

    def end(self) -> None:
        """The text is long enough: what is in flight counts as superfluous from now on.

        `finish` does the rest, when another request wants the pipeline.
        """
        self._scheduler.finish()

    def finish(self) -> None:
        """Gives up what is in flight, and waits for its results."""
        self.end()
        self._loop.drain()
