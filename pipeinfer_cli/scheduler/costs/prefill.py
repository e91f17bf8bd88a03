"""In how many runs a prompt goes through the stages.

A prompt of P tokens in n equal runs passes S stages in (n + S - 1) T(P / n): the last stage begins
when the first run has passed all others. Shorter runs fill the stages sooner, but each run reads
the weights again. With T(k) in proportion to k + c, n = sqrt(P (S - 1) / c) is the fastest.
"""

from __future__ import annotations

import math

# c: our kernels take as long for reading weights as for the arithmetic of 0 (F16) to 3 tokens.
RUN_OVERHEAD = 3.0
LEAST_TOKENS = 8  # in a run; T(k) is not linear for fewer


def prefill_run_size(n_tokens: int, *, n_stages: int, n_batch: int) -> int:
    """Tokens of each run but the last one, at most `n_batch`."""
    n_runs = math.sqrt(n_tokens * (n_stages - 1) / RUN_OVERHEAD)
    n_runs = min(round(n_runs), n_tokens // LEAST_TOKENS)
    n_runs = max(n_runs, math.ceil(n_tokens / n_batch))
    return math.ceil(n_tokens / n_runs)
