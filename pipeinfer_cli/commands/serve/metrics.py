"""What a server has done, for Prometheus."""

from __future__ import annotations

from itertools import pairwise

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from pipeinfer_cli.runtime.answer import Answer
from pipeinfer_cli.runtime.text.token_streams import StreamsState
from pipeinfer_cli.scheduler.metrics import Stats

PREFIX = "pipeinfer"
TTFT_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100)
ITL_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
CANCEL_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """Counters of finished and cancelled requests, and gauges of what is there now.

    Written on the head's thread, but for refusals; read on HTTP's.
    """

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"{PREFIX}_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(f"{PREFIX}_{name}", text, labels, registry=registry)

        self._requests = counter("requests", "Requests by how they ended", ("end",))
        self._n_prompt = counter("prompt_tokens", "Tokens of prompts")
        self._n_reused = counter("prompt_tokens_reused", "Of these, found in the KV cache")
        self._n_generated = counter("generated_tokens", "Tokens of answers")
        self._n_drafted = counter("drafted_tokens", "Drafted tokens that were submitted")
        self._n_accepted = counter("accepted_tokens", "Of these, the ones in answers")
        self._runs = counter("runs", "Runs through the pipeline, by their end", ("end",))
        self._busy = counter("stage_busy_seconds", "Compute time of a stage", ("stage",))
        self._wasted = counter(
            "stage_wasted_seconds", "Of it, for tokens that are in no answer", ("stage",)
        )
        self._ttft = Histogram(
            f"{PREFIX}_ttft_seconds", "To the first token", buckets=TTFT_S, registry=registry
        )
        self._itl = Histogram(
            f"{PREFIX}_itl_seconds", "From token to token", buckets=ITL_S, registry=registry
        )
        self._free = Histogram(
            f"{PREFIX}_cancel_seconds",
            "From a client's leaving until no stage works for it any more",
            buckets=CANCEL_S,
            registry=registry,
        )
        self._active = gauge("requests_active", "Requests in the pipeline")
        self._waiting = gauge("requests_waiting", "Requests in the queue")
        self._cached = gauge("cached_texts", "Texts that are over whose KV cells are kept")
        self._cached_tokens = gauge("cached_tokens", "Their tokens")
        self._sequences = gauge("kv_sequences", "KV sequences in use")
        self._state: tuple[StreamsState, int] | None = None
        self._drafts = 0, 0  # that were submitted, and the ones in answers
        self._totals: dict[str, float | None] = {"generated": 0, "cancelled": 0, "acceptance": None}

    @property
    def summary(self) -> dict[str, float | None]:
        """A few numbers for the page at `/`."""
        state, n_waiting = self._state or (None, 0)
        return {
            "active": state.n_requests if state else 0,
            "waiting": n_waiting,
            "cached": state.n_cached if state else 0,
            **self._totals,
        }

    def on_state(self, state: StreamsState, *, n_waiting: int) -> None:
        """What the requests hold of the pipeline now."""
        if (state, n_waiting) == self._state:
            return
        self._state = state, n_waiting
        self._active.set(state.n_requests)
        self._waiting.set(n_waiting)
        self._cached.set(state.n_cached)
        self._cached_tokens.set(state.n_cached_tokens)
        self._sequences.set(state.n_sequences)

    def on_end(self, answer: Answer) -> None:
        """A request has its whole answer."""
        self._requests.labels(answer.finish_reason).inc()

    def on_cancel(self) -> None:
        """A request was given up by its client."""
        self._requests.labels("cancelled").inc()

    def on_free(self, seconds: float) -> None:
        """Nothing is in flight any more for a client that left this long ago."""
        self._free.observe(seconds)

    def on_refusal(self, end: str) -> None:
        """A request was not taken in."""
        self._requests.labels(end).inc()

    def on_work(self, stats: Stats, answer: Answer) -> None:
        """All that was done for a request, once nothing is in flight for it any more."""
        n_drafted, n_accepted = self._drafts
        self._drafts = n_drafted + stats.n_drafted, n_accepted + stats.n_accepted
        self._totals = {
            "generated": (self._totals["generated"] or 0) + len(answer.tokens),
            "cancelled": (self._totals["cancelled"] or 0) + stats.n_cancelled,
            "acceptance": self._drafts[1] / self._drafts[0] if self._drafts[0] else None,
        }
        self._n_prompt.inc(stats.n_prompt)
        self._n_reused.inc(stats.n_reused)
        self._n_generated.inc(len(answer.tokens))
        self._n_drafted.inc(stats.n_drafted)
        self._n_accepted.inc(stats.n_accepted)
        self._runs.labels("completed").inc(stats.n_completed)
        self._runs.labels("cancelled").inc(stats.n_cancelled)
        for stage, (busy_ms, wasted_ms) in enumerate(
            zip(stats.busy_ms, stats.wasted_ms, strict=True)
        ):
            self._busy.labels(str(stage)).inc(busy_ms / 1000)
            self._wasted.labels(str(stage)).inc(wasted_ms / 1000)
        if answer.times_s:
            self._ttft.observe(stats.ttft_ms / 1000)
        for before_s, after_s in pairwise(answer.times_s):
            self._itl.observe(after_s - before_s)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)
