"""Emulation honesty: plain decoding on an emulated cluster against the profile's arithmetic.

    mpiexec -n N python benchmarks/emulation.py MODEL.gguf PROFILE [tokens] [rounds]

N is the profile's stages and the head. A token goes through all stages, one after the other, and
back to the head: it should take the sum of the stages' times for one token and of the links'
delays. Exits with 1 if the median over the rounds is off by more than 3 %.
"""

from __future__ import annotations

import sys
import time
from itertools import islice
from pathlib import Path
from statistics import median

from cluster import PROMPT, run
from pipeinfer_cli.cluster import profile_toml
from pipeinfer_cli.cluster.profile import Profile
from pipeinfer_cli.runtime.head import Head, Request

TOLERANCE = 0.03


def expected_ms(profile: Profile) -> float:
    """What a token should take."""
    hops_s = [profile.result_link.delay_s(0)]
    hops_s += [link.delay_s(profile.run_bytes(i, 1)) for i, link in enumerate(profile.links)]
    return sum(stage.ms(1) for stage in profile.stages) + 1000 * sum(hops_s)


def decode(head: Head, n_tokens: int) -> list[float]:
    """Milliseconds from token to token."""
    with head.begin(Request(prompt=PROMPT, n_max=n_tokens)) as active:
        times_s = [time.monotonic() for _ in islice(active.tokens, n_tokens)]
    return [1000 * (b - a) for a, b in zip(times_s, times_s[1:], strict=False)]


def main() -> int:
    path, profile = Path(sys.argv[1]), profile_toml.load(sys.argv[2])
    n_tokens = int(sys.argv[3]) if len(sys.argv) > 3 else 40
    n_rounds = int(sys.argv[4]) if len(sys.argv) > 4 else 3
    return run(path, profile.name, lambda head: compare(head, profile, n_tokens, n_rounds))


def compare(head: Head, profile: Profile, n_tokens: int, n_rounds: int) -> int:
    right_ms = expected_ms(profile)
    ratios = []
    print(f"{profile.name}: by the profile's arithmetic a token takes {right_ms:.3f} ms")
    for index in range(n_rounds):
        gaps_ms = decode(head, n_tokens)
        ratios.append(median(gaps_ms) / right_ms)
        mean_ratio = sum(gaps_ms) / len(gaps_ms) / right_ms
        print(
            f"round {index + 1}: median {median(gaps_ms):.3f} ms, ratio {ratios[-1]:.4f} "
            f"(of the mean {mean_ratio:.4f}, of the slowest {max(gaps_ms) / right_ms:.4f})"
        )
    for note in head.overruns.notes():
        print(note)
    is_honest = abs(median(ratios) - 1) <= TOLERANCE
    print(
        f"{profile.name}: measured/arithmetic {median(ratios):.4f}: {'ok' if is_honest else 'OFF'}"
    )
    return 0 if is_honest else 1


if __name__ == "__main__":
    sys.exit(main())
