"""What --emulate and --synth-acceptance ask for, and how it is said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeinfer_cli.emulation import profile_file
from pipeinfer_cli.emulation.lateness import Lateness
from pipeinfer_cli.emulation.profile import Profile
from pipeinfer_cli.emulation.synthetic import RandomLuck, SyntheticText
from pipeinfer_cli.engine.config import RankEmulation
from pipeinfer_cli.errors import UserError


def load_profile(
    emulate: str | None, n_ranks: int | None, draft_ratio: float | None = None
) -> Profile | None:
    """The profile that --emulate names. UserError unless so many ranks (None: any) are right."""
    if emulate is None:
        return None
    profile = profile_file.load(emulate)
    n_needed = count_ranks(profile)
    if n_ranks not in (None, n_needed):
        raise UserError(
            f"--emulate {emulate}: {profile.n_stages} stages and a head are {n_needed} ranks, not "
            f"{n_ranks}: use --ranks {n_needed}"
        )
    return profile if draft_ratio is None else profile.with_draft_ratio(draft_ratio)


def count_ranks(profile: Profile) -> int:
    """The head of an emulated cluster drafts, and holds no layers."""
    return profile.n_stages + 1


def check_model(profile: Profile, n_layer: int, weights: tuple[float, ...] | None) -> None:
    """UserError unless the model's layers can be split as the profile has stages."""
    if profile.n_stages > n_layer:
        raise UserError(
            f"--emulate {profile.name}: {profile.n_stages} stages for a model of {n_layer} layers: "
            "use a profile of fewer stages, or a model with more layers"
        )
    if weights is not None and weights[0] != 0:
        raise UserError(
            "--emulate: the head of an emulated cluster holds no layers: give --layer-split a 0 "
            "for rank 0, or leave it out"
        )


def parse_acceptance(text: str, seed: int = 0) -> RandomLuck:
    """See RandomLuck.parse; commas do as well as slashes. Raises UserError."""
    try:
        return RandomLuck.parse(text.replace(",", "/"), seed)
    except UserError as error:
        raise UserError(f"--synth-acceptance {text!r}: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretence:
    """What is not real about a request: said wherever its figures or its text are."""

    profile: Profile | None = None
    luck: RandomLuck | None = None

    @classmethod
    def of(cls, profile: Profile | None, acceptance: str | None, seed: int) -> Pretence:
        """From the options' values; the seed is the one of sampling."""
        luck = None if acceptance is None else parse_acceptance(acceptance, seed)
        return cls(profile=profile, luck=luck)

    def text(self, n_vocab: int) -> SyntheticText | None:
        """The synthetic text, if there is one; its token ids are below `n_vocab`."""
        if self.luck is None:
            return None
        return SyntheticText(luck=self.luck, seed=self.luck.seed, n_vocab=n_vocab)

    @property
    def label(self) -> str:
        """For a stats line: begins with a comma; empty if all is real."""
        label = f", emulated {self.profile.name}" if self.profile else ""
        return label + (f", synthetic acceptance {self.luck}" if self.luck else "")

    def notes(self) -> list[str]:
        """Lines to say before the text comes."""
        if self.luck is None:
            return []
        drawn = f"acceptance {self.luck}, verdicts drawn with --seed {self.luck.seed}"
        return [f"synthetic: {drawn}: the text is not the model's"]

    def as_dict(self, lateness: Lateness) -> dict[str, Any]:
        """For --format json: `emulation` and `synthetic`, those that apply."""
        parts: dict[str, Any] = {}
        if self.profile:
            parts["emulation"] = {"profile": self.profile.name, **lateness.as_dict()}
        if self.luck:
            parts["synthetic"] = {
                "acceptance": list(self.luck.rates),
                "informed": self.luck.is_informed,
                "seed": self.luck.seed,
            }
        return parts


def rank_emulation(profile: Profile, rank: int, n_batch: int) -> RankEmulation:
    """For a rank's engine: 0 is the head, without layers; stage i is on rank i + 1."""
    stage_us: tuple[int, ...] = ()
    if rank > 0:
        curve = profile.stages[rank - 1]
        stage_us = tuple(round(1000 * curve.ms(n)) for n in range(1, n_batch + 1))
    link = profile.links[rank - 1] if rank > 0 else profile.result_link
    return RankEmulation(
        stage_us=stage_us,
        latency_us=round(link.latency_us),
        bytes_per_us=125 * link.gbit_per_s,
        hidden_bytes=profile.hidden_bytes,
    )
