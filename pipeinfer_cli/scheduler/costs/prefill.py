"""In how many runs a prompt goes through the stages.

A prompt of P tokens in runs of k passes S stages in (P / k + S - 1) T(k): the last stage begins
when the first run has passed all others. Shorter runs fill the stages sooner, but each run reads
the weights again.
"""

from __future__ import annotations

import math

# T(k) is in proportion to k + RUN_OVERHEAD: with our kernels, reading weights takes as long as the
# arithmetic of 0 (F16) to 3 (Q4_K) tokens.
RUN_OVERHEAD = 3.0
LEAST_TOKENS = 8  # in a run; T(k) is not linear for fewer
WORTH = 0.15  # of the time: less is within what stages and kernels differ from this


def prefill_run_size(n_tokens: int, *, n_stages: int, n_batch: int) -> int:
    """Tokens of each run but the last one: n_batch, or a half, a fourth of it, if that pays.

    Kernels compute whole groups of tokens: numbers between these would take as long as larger ones.
    """

    def cost(size: int) -> float:
        n_runs = math.ceil(n_tokens / size)
        return (n_runs + n_stages - 1) * (min(size, n_tokens) + RUN_OVERHEAD)

    sizes = [n_batch]
    while sizes[-1] // 2 >= LEAST_TOKENS:
        sizes.append(sizes[-1] // 2)
    limit = min(map(cost, sizes)) * (1 + WORTH)
    return next(size for size in sizes if cost(size) <= limit)
