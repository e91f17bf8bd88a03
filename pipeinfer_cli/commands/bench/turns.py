"""Which request comes when: variants take turns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeinfer_cli.commands.bench.config import BenchGroup
from pipeinfer_cli.commands.bench.record import PLAIN, WARMUP
from pipeinfer_cli.scheduler.policy import Variant


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Which request comes when; see Sample."""

    repetition: int
    variant: int
    prompt: int


def turns(n_variants: int, n_prompts: int, repetitions: int) -> Iterator[Turn]:
    """Every variant meets every prompt once in a repetition, close to the others in time.

    Who begins changes from prompt to prompt and from repetition to repetition, so that nobody
    always follows the same one.
    """
    for repetition in range(repetitions):
        for prompt in range(n_prompts):
            for place in range(n_variants):
                variant = (place + prompt + repetition) % n_variants
                yield Turn(repetition=repetition, variant=variant, prompt=prompt)


def first_turns(variants: tuple[Variant, ...], n_prompts: int, *, warmup: bool) -> list[Turn]:
    """What comes before: a warm-up of each variant, and the plain text if nobody writes it."""
    is_plain = any(variant.strategy == "iterative" for variant in variants)
    plain = [] if is_plain else [PLAIN] * n_prompts
    warm = [Turn(repetition=WARMUP, variant=each, prompt=0) for each in range(len(variants))]
    return [
        *(warm if warmup else []),
        *(Turn(repetition=WARMUP, variant=each, prompt=at) for at, each in enumerate(plain)),
    ]


def n_turns(group: BenchGroup) -> int:
    """Requests of a group."""
    n_prompts, n_variants = len(group.prompts), len(group.variants)
    n_first = len(first_turns(group.variants, n_prompts, warmup=group.warmup))
    return n_first + n_variants * n_prompts * group.repetitions
