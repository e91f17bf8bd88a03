"""What a generation has cost, in the field's terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """The speed of one request, as the head saw it. Loading the model is not part of it."""

    n_ranks: int
    n_stages: int
    n_prompt: int  # tokens
    n_generated: int  # tokens
    tokens_per_s: float  # generated tokens after the first one, over the time that they took
    ttft_ms: float  # time to first token: from the first run's submission
    itl_p50_ms: float  # inter-token latency: the time between one token and the next
    itl_p99_ms: float
    total_ms: float

    def line(self) -> str:
        """For --stats: one line."""
        return (
            f"{self.n_ranks} ranks, {self.n_generated} tokens, {self.tokens_per_s:.2f} tok/s, "
            f"TTFT {self.ttft_ms:.1f} ms, "
            f"ITL p50 {self.itl_p50_ms:.2f} ms p99 {self.itl_p99_ms:.2f} ms"
        )

    def as_dict(self) -> dict[str, Any]:
        """For --format json."""
        return asdict(self)


def measure(
    start_s: float, token_times_s: Sequence[float], *, n_ranks: int, n_stages: int, n_prompt: int
) -> Stats:
    """Stats from the times (s, one clock) of the request's start and of each generated token."""
    gaps_ms = [1000 * (b - a) for a, b in zip(token_times_s, token_times_s[1:], strict=False)]
    last_s = token_times_s[-1] if token_times_s else start_s
    first_s = token_times_s[0] if token_times_s else start_s
    return Stats(
        n_ranks=n_ranks,
        n_stages=n_stages,
        n_prompt=n_prompt,
        n_generated=len(token_times_s),
        tokens_per_s=1000 * len(gaps_ms) / sum(gaps_ms) if sum(gaps_ms) > 0 else 0.0,
        ttft_ms=1000 * (first_s - start_s),
        itl_p50_ms=percentile(gaps_ms, 50),
        itl_p99_ms=percentile(gaps_ms, 99),
        total_ms=1000 * (last_s - start_s),
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: at least `percent` per cent of the values do not exceed it.

    0 without values.
    """
    if not values:
        return 0.0
    rank = max(1, -(-len(values) * percent // 100))
    return sorted(values)[int(rank) - 1]
