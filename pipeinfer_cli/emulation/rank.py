"""One rank of an emulated cluster: what the engine is told of a profile."""

from __future__ import annotations

from dataclasses import dataclass

from pipeinfer_cli.emulation.profile import Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class RankEmulation:
    """See struct pi_emulation. The link is the one that brings this rank its runs or results."""

    stage_us: tuple[int, ...]  # of a run of 1, 2, ... tokens; empty on the head
    latency_us: int
    bytes_per_us: float
    hidden_bytes: int  # of one token

    @classmethod
    def of(cls, profile: Profile, rank: int, n_batch: int) -> RankEmulation:
        """Rank 0 is the head, without layers; stage i is on rank i + 1."""
        stage_us: tuple[int, ...] = ()
        if rank > 0:
            curve = profile.stages[rank - 1]
            stage_us = tuple(round(1000 * curve.ms(n)) for n in range(1, n_batch + 1))
        link = profile.links[rank - 1] if rank > 0 else profile.result_link
        return cls(
            stage_us=stage_us,
            latency_us=round(link.latency_us),
            bytes_per_us=125 * link.gbit_per_s,
            hidden_bytes=profile.hidden_bytes,
        )
