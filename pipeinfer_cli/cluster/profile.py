"""What a cluster costs, as plain values: the times of its stages, links and drafter."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, replace
from reprlib import repr as short

from pipeinfer_cli.errors import UserError

MAX_STAGES = 512
MAX_TOKENS = 1 << 20  # in a run; more is a typing error
MAX_HIDDEN_BYTES = (1 << 32) - 1  # as the engine counts them


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCurve:
    """How long a stage computes a run, by its tokens; or a drafter a pass, by its nodes.

    Linear between the points, and after the last one with the slope of the last two (of the line
    from 0 if there is one point only).
    """

    points: tuple[tuple[int, float], ...]  # (tokens, ms); tokens grow, ms do not fall

    def __post_init__(self) -> None:
        if not self.points or self.points[0][0] != 1:
            raise UserError(f"times {_shown(self.points)}: give a time for 1 token")
        for n_tokens, ms in self.points:
            if not 1 <= n_tokens <= MAX_TOKENS:
                raise UserError(f"time for {n_tokens} tokens: give a number of 1 or more")
            check_positive(f"time for {n_tokens} tokens", ms)
        for (few, less_ms), (many, more_ms) in zip(self.points, self.points[1:], strict=False):
            if many <= few:
                raise UserError(f"times {_shown(self.points)}: numbers of tokens must grow")
            if more_ms < less_ms:
                raise UserError(
                    f"time for {many} tokens {more_ms:g}: it is below the time for {few} "
                    f"({less_ms:g}); more tokens take as long or longer"
                )

    @classmethod
    def line(cls, *, base_ms: float, token_ms: float) -> StageCurve:
        """`base_ms` for a run and `token_ms` for each of its tokens; one of them may be 0."""
        for name, value in (("base_ms", base_ms), ("token_ms", token_ms)):
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"{name} {value:g}: give a number of 0 or more")
        if base_ms == token_ms == 0:
            raise UserError("base_ms 0 and token_ms 0: computing takes some time, give one of them")
        return cls(points=((1, base_ms + token_ms), (2, base_ms + 2 * token_ms)))

    def ms(self, n_tokens: int) -> float:
        """The time of a run of n tokens; 0 for 0 tokens (a run that was cancelled)."""
        assert n_tokens >= 0
        if n_tokens == 0:
            return 0.0
        if len(self.points) == 1:
            return self.points[0][1] * n_tokens
        right = bisect_right(self.points, (n_tokens, math.inf))
        right = min(max(right, 1), len(self.points) - 1)
        (few, less_ms), (many, more_ms) = self.points[right - 1], self.points[right]
        return less_ms + (more_ms - less_ms) * (n_tokens - few) / (many - few)

    def scaled(self, factor: float) -> StageCurve:
        """The curve of a stage that has `factor` times the work."""
        return StageCurve(points=tuple((n_tokens, ms * factor) for n_tokens, ms in self.points))

    def scaled_to(self, first_ms: float) -> StageCurve:
        """The curve of the same T(k)/T(1) whose T(1) is exactly `first_ms`."""
        old_ms = self.points[0][1]
        return StageCurve(points=tuple((n, ms / old_ms * first_ms) for n, ms in self.points))


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A way between two ranks: messages follow one another, each `latency_us` later at the end."""

    latency_us: float
    gbit_per_s: float

    def __post_init__(self) -> None:
        check_positive("latency_us", self.latency_us)
        check_positive("gbit_per_s", self.gbit_per_s)

    def latency_s(self) -> float:
        """The time of a message without content; also of a cancel."""
        return self.latency_us * 1e-6

    def busy_s(self, n_bytes: int) -> float:
        """How long a message keeps the link from the next one."""
        return n_bytes * 8e-9 / self.gbit_per_s

    def delay_s(self, n_bytes: int) -> float:
        """From sending to arrival, if no other message is on the link."""
        return self.latency_s() + self.busy_s(n_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A cluster with a model on it. A cancel takes the latency of the link into its stage."""

    name: str
    description: str = ""
    stages: tuple[StageCurve, ...]
    links: tuple[Link, ...]  # link i brings runs to stage i; 0: from the head
    result_link: Link  # from the last stage to the head
    hidden_bytes: int  # of the hidden states of one token, on links 1...
    draft: StageCurve  # a forward pass of the draft model, by the nodes that it expands

    def __post_init__(self) -> None:
        if not 1 <= len(self.stages) <= MAX_STAGES:
            raise UserError(
                f"n_stages {len(self.stages)}: give a number of stages from 1 to {MAX_STAGES}"
            )
        assert len(self.links) == len(self.stages)
        if not 1 <= self.hidden_bytes <= MAX_HIDDEN_BYTES:
            raise UserError(
                f"hidden_bytes {short(self.hidden_bytes)}: give a number from 1 to "
                f"{MAX_HIDDEN_BYTES}"
            )

    @property
    def n_stages(self) -> int:
        """The length of the pipeline."""
        return len(self.stages)

    @property
    def draft_ms(self) -> float:
        """The time of a pass that expands one node: of a token, in a chain."""
        return self.draft_batch_ms(1)

    def draft_batch_ms(self, n_nodes: int) -> float:
        """The time of a pass that expands n nodes together."""
        return self.draft.ms(n_nodes)

    def draft_batch_s(self, n_nodes: int) -> float:
        """The same in seconds."""
        return self.draft_batch_ms(n_nodes) / 1000

    def run_bytes(self, stage: int, n_tokens: int) -> int:
        """What a link to `stage` is charged for a run: token ids go to the first, states on."""
        return n_tokens * self.hidden_bytes if stage > 0 else 0

    def links_s(self) -> float:
        """One token's way through all links, back to the head."""
        ways = [
            link.delay_s(self.run_bytes(stage, n_tokens=1)) for stage, link in enumerate(self.links)
        ]
        return sum(ways) + self.result_link.delay_s(0)

    def slowest_ms(self, n_tokens: int = 1) -> float:
        """The time of the slowest stage."""
        return max(stage.ms(n_tokens) for stage in self.stages)

    def with_draft_ms(self, draft_ms: float) -> Profile:
        """The same with another time for a pass of one node; larger ones keep their ratio to it."""
        check_positive("draft_ms", draft_ms)
        return replace(self, draft=self.draft.scaled_to(draft_ms))

    def with_draft_ratio(self, ratio: float) -> Profile:
        """The same with another draft time: a share of the first stage's time for one token."""
        check_positive("--draft-ratio", ratio)
        return self.with_draft_ms(ratio * self.stages[0].ms(1))

    def spread(self, n_stages: int) -> Profile:
        """The same model over another number of equal stages, linked like stages 0 and 1 here."""
        if not 1 <= n_stages <= MAX_STAGES:
            raise UserError(f"{n_stages} stages: give a number from 1 to {MAX_STAGES}")
        sizes = sorted({size for stage in self.stages for size, _ in stage.points})
        points = tuple((k, sum(stage.ms(k) for stage in self.stages) / n_stages) for k in sizes)
        return replace(
            self,
            name=f"{self.name}@{n_stages}",
            stages=(StageCurve(points=points),) * n_stages,
            links=(self.links[0], *(self.links[1:2] or self.links[:1]) * (n_stages - 1)),
        )


def assumed_draft(stage: StageCurve, draft_ms: float) -> StageCurve:
    """A drafter's curve where only the time for one node is known: it grows as the stage's does."""
    check_positive("draft_ms", draft_ms)
    return stage.scaled_to(draft_ms)


def check_positive(name: str, value: float) -> None:
    """UserError unless it is a finite number above 0."""
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"{name} {value:g}: give a number above 0")


def _shown(points: tuple[tuple[int, float], ...]) -> str:
    return ", ".join(f"{n_tokens}: {ms:g}" for n_tokens, ms in points) or "(none)"
