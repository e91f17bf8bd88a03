"""The settings of --emulate and --synth-acceptance, and how they are reported."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeinfer_cli.cluster import profile_toml
from pipeinfer_cli.cluster.acceptance.models import RandomAcceptance
from pipeinfer_cli.cluster.acceptance.text import SyntheticDrafter, SyntheticText
from pipeinfer_cli.cluster.overruns import Overruns
from pipeinfer_cli.cluster.profile import Profile
from pipeinfer_cli.engine.config import RankEmulation
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.scheduler.interfaces import Candidate, DraftBatch, Drafter, Pipeline
from pipeinfer_cli.scheduler.runs import Result, Run, RunStatus


def load_profile(
    emulate: str | None, n_ranks: int | None, draft_ratio: float | None = None
) -> Profile | None:
    """The profile that --emulate names. UserError unless it fits n_ranks (None: any)."""
    if emulate is None:
        return None
    profile = profile_toml.load(emulate)
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


def parse_acceptance(text: str, seed: int = 0) -> RandomAcceptance:
    """See RandomAcceptance.parse; commas do as well as slashes. Raises UserError."""
    try:
        return RandomAcceptance.parse(text.replace(",", "/"), seed)
    except UserError as error:
        raise UserError(f"--synth-acceptance {text!r}: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulationSettings:
    """What is not real about a request: said wherever its figures or its text are."""

    profile: Profile | None = None
    acceptance: RandomAcceptance | None = None

    @classmethod
    def of(cls, profile: Profile | None, acceptance: str | None, seed: int) -> EmulationSettings:
        """From the options' values; the seed is the one of sampling."""
        drawn = None if acceptance is None else parse_acceptance(acceptance, seed)
        return cls(profile=profile, acceptance=drawn)

    def text(self, n_vocab: int) -> SyntheticText | None:
        """The synthetic text, if there is one; its token ids are below `n_vocab`."""
        if self.acceptance is None:
            return None
        return SyntheticText(acceptance=self.acceptance, seed=self.acceptance.seed, n_vocab=n_vocab)

    @property
    def label(self) -> str:
        """For a stats line: begins with a comma; empty if all is real."""
        label = f", emulated {self.profile.name}" if self.profile else ""
        return label + (f", synthetic acceptance {self.acceptance}" if self.acceptance else "")

    def notes(self) -> list[str]:
        """Lines to say before the text comes."""
        if self.acceptance is None:
            return []
        drawn = f"acceptance {self.acceptance}, verdicts drawn with --seed {self.acceptance.seed}"
        return [f"synthetic: {drawn}: the text is not the model's"]

    def as_dict(self, overruns: Overruns) -> dict[str, Any]:
        """For --format json: `emulation` and `synthetic`, those that apply."""
        parts: dict[str, Any] = {}
        if self.profile:
            parts["emulation"] = {"profile": self.profile.name, **overruns.as_dict()}
        if self.acceptance:
            parts["synthetic"] = {
                "acceptance": list(self.acceptance.rates),
                "confidence": self.acceptance.confidence,
                "seed": self.acceptance.seed,
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


class ObservedPipeline:
    """An emulated pipeline: takes note of what was late."""

    def __init__(self, pipeline: Pipeline, overruns: Overruns) -> None:
        self._pipeline = pipeline
        self._overruns = overruns

    def submit(self, run: Run) -> None:
        """See interfaces.Pipeline."""
        self._pipeline.submit(run)

    def cancel(self, run_first: int, run_last: int) -> None:
        """See interfaces.Pipeline."""
        self._pipeline.cancel(run_first, run_last)

    def wait(self, timeout_s: float) -> Result | None:
        """See interfaces.Pipeline."""
        result = self._pipeline.wait(timeout_s)
        if result is not None:
            self._overruns.count(result)
        return result


class SyntheticPipeline:
    """A pipeline whose results are a synthetic text's; all else about them is real.

    For one request. `drafter` is told how long the text is.
    """

    def __init__(
        self, pipeline: Pipeline, text: SyntheticText, drafter: SyntheticDrafter, n_prompt: int
    ) -> None:
        self._pipeline = pipeline
        self._text = text
        self._drafter = drafter
        self._drafter.n_decided = n_prompt
        self._n_prompt = n_prompt
        self._runs: dict[int, Run] = {}  # in flight

    def submit(self, run: Run) -> None:
        """See interfaces.Pipeline."""
        self._runs[run.run_id] = run
        self._pipeline.submit(run)

    def cancel(self, run_first: int, run_last: int) -> None:
        """See interfaces.Pipeline."""
        self._pipeline.cancel(run_first, run_last)

    def wait(self, timeout_s: float) -> Result | None:
        """See interfaces.Pipeline."""
        result = self._pipeline.wait(timeout_s)
        if result is None:
            return None
        run = self._runs.pop(result.run_id)
        if result.status is RunStatus.COMPLETED:
            self._note_decided(run)
        return self._text.with_verdicts(result, run)

    def _note_decided(self, run: Run) -> None:
        """A row decides the token after its own if that is in the text itself."""
        for token in run.tokens:
            position = token.position
            is_prompt = position < self._n_prompt
            is_right = is_prompt or token.id == self._text.token(position)
            if token.want and is_right and position < self._drafter.n_decided:
                self._drafter.n_decided = max(self._drafter.n_decided, position + 2)


class PacedDrafter:
    """A drafter on an emulated machine: a batch takes `batch_s` of its number of branches."""

    def __init__(
        self,
        drafter: Drafter,
        batch_s: Callable[[int], float],
        overruns: Overruns,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._drafter = drafter
        self._batch_s = batch_s
        self._overruns = overruns
        self._clock = clock
        self._sleep = sleep

    def expand(
        self, batch: DraftBatch, is_wanted: Callable[[], bool]
    ) -> list[Sequence[Candidate]] | None:
        """See interfaces.Drafter. All branches are due at once."""
        due_s = self._clock() + self._batch_s(len(batch.branches))
        answers = self._drafter.expand(batch, is_wanted)
        if answers is None:
            return None
        now_s = self._clock()
        self._overruns.count_drafted(max(0, round(1e6 * (now_s - due_s))), n=len(answers))
        if now_s < due_s:
            self._sleep(due_s - now_s)
        return answers
