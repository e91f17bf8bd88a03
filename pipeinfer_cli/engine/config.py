"""What the engine is told when it opens, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

MAX_THREADS = 512  # of one rank: ggml's own limit


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftCores:
    """With how many threads a draft model computes in the head's process, and on which cores."""

    n_threads: int = 1
    shares_cores: bool = False  # with the head's stage: one of the two computes at a time
    has_own_cores: bool = False  # idle threads may spin


ONE_THREAD = DraftCores()
