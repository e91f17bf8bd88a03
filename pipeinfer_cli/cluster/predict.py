"""Predicts from a calibration the costs of another placement of the same layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeinfer_cli import log
from pipeinfer_cli.cluster import calibration as calibrations
from pipeinfer_cli.cluster.calibration import Calibration, Identity
from pipeinfer_cli.cluster.profile import StageCurve
from pipeinfer_cli.launch.environment import RankResources
from pipeinfer_cli.models.gguf.info import ModelInfo
from pipeinfer_cli.models.layer_split import LayerRange, split_by_time
from pipeinfer_cli.scheduler.costs.measured import PriorCosts

Calibrations = Sequence[tuple[Path, Calibration]]  # the latest first

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SIZES = (1, 2, 4, 8, 16, 32)  # tokens of the runs that are measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What runs and drafts of a job are expected to cost."""

    stages: tuple[StageCurve, ...]
    draft_ms: Mapping[str, float]  # for a token, by the draft model's digest
    link_ms: float  # of one token's way through all links, back to the head

    def prior(self, draft_model: str | None) -> PriorCosts:
        """For the scheduler; `draft_model` is a digest."""
        return PriorCosts(
            by_size={size: self._times(size) for size in SIZES},
            draft_s=self.draft_ms.get(draft_model, 0.0) / 1000 if draft_model else 0.0,
            link_s=self.link_ms / 1000,
        )

    def _times(self, n_tokens: int) -> tuple[float, float]:
        times_s = [stage.ms(n_tokens) / 1000 for stage in self.stages]
        return max(times_s), sum(times_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """The ranks that a calibration is applied to, and the model."""

    all_resources: tuple[RankResources, ...]  # by rank
    layer_bytes: tuple[int, ...]  # by layer, the output head not included


def layers_by_time(
    calibration: Calibration, ranks: Ranks, n_idle: int
) -> tuple[LayerRange, ...] | None:
    """The placement whose slowest stage is fastest; the first `n_idle` ranks hold no layers.

    None if the calibration does not say how fast all of the others are.
    """
    times = layer_times(calibration, ranks, range(n_idle, len(ranks.all_resources)))
    if times is None:
        return None
    return (LayerRange(0, 0),) * n_idle + split_by_time(times)


def stages_for(
    calibration: Calibration, ranks: Ranks, layers: Sequence[LayerRange]
) -> tuple[StageCurve, ...] | None:
    """How long stages with these layers (by rank) will take. None as in `layers_by_time`."""
    if tuple(layers) == calibration.layers:
        return calibration.profile.stages
    holders = [rank for rank, each in enumerate(layers) if len(each)]
    times = layer_times(calibration, ranks, holders)
    if times is None:
        return None
    curves = []
    for of_layer, rank in zip(times, holders, strict=True):
        source = _source(calibration, ranks.all_resources, rank)
        assert source is not None, "layer_times has found one"
        curve = calibration.profile.stages[source]
        held = layers[rank]
        curves.append(curve.scaled(float(of_layer[held.first : held.last].sum()) / curve.ms(1)))
    return tuple(curves)


def layer_times(
    calibration: Calibration, ranks: Ranks, holders: Sequence[int]
) -> npt.NDArray[np.float64] | None:
    """float64 `[len(holders), n_layer]`: ms that one token takes in each layer on these ranks.

    A stage's time is divided among its layers by their bytes. The output head, whose own time was
    measured, counts with the last layer; the token embedding, hardly any time, with the first
    stage's layers.
    """
    import numpy as np  # of a job without a calibration, nothing needs it

    n_bytes = np.array(ranks.layer_bytes, dtype=np.float64)
    held = [each for each in calibration.layers if len(each)]
    rows = []
    for rank in holders:
        if (source := _source(calibration, ranks.all_resources, rank)) is None:
            return None
        time_ms = calibration.profile.stages[source].ms(1)
        if source == len(held) - 1:
            time_ms -= calibration.output_ms
        rows.append(time_ms * n_bytes / n_bytes[held[source].first : held[source].last].sum())
    times = np.array(rows)
    times[:, -1] += calibration.output_ms
    return times


def _source(
    calibration: Calibration, all_resources: Sequence[RankResources], rank: int
) -> int | None:
    """The stage that was measured on this rank, or else on another one of the same kind."""
    measured = [i for i, each in enumerate(calibration.layers) if len(each)]
    alike = [i for i in measured if all_resources[i] == all_resources[rank]]
    if rank in measured:
        return measured.index(rank)
    return measured.index(alike[0]) if alike else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementResult:
    """Layers by rank, and what there is to expect of them."""

    layers: tuple[LayerRange, ...]
    expected: Expectation | None = None  # None: there is no calibration


def consult(
    model_path: Path,
    model: ModelInfo,
    all_resources: Sequence[RankResources],
    layers: tuple[LayerRange, ...],
    *,
    may_move: bool,
    draft_threads: int,
    verbose: bool,
    adapters: str = "",
    devices: Sequence[str] = (),
) -> PlacementResult:
    """`layers` (by rank) as they are, or with `may_move` in equal times, as far as is known.

    `adapters` as adapters_digest, `devices` as Identity.devices.
    """
    found = calibrations.find(Identity.of(model_path, all_resources, adapters, devices))
    ranks = Ranks(all_resources=tuple(all_resources), layer_bytes=model.layer_bytes)
    notes = [f"note: {found.problems[0]}"] if found.problems else []
    may_move = may_move and sum(len(each) > 0 for each in layers) > 1
    if may_move:
        by_time = _by_time(found.calibrations, ranks, n_idle=int(not len(layers[0])))
        layers, path = by_time or (layers, None)
        why = f"even by time, as calibrated in {path}" if path else "even by bytes: not calibrated"
        notes.append(f"layers are {why}")
    expected = _expected(found.calibrations, ranks, layers)
    if expected is not None:
        stages, calibration, path = expected
        notes.append(f"run sizes start from the times in {path}")
    for each in notes:
        log.note(each, verbose=verbose)
    if expected is None:
        return PlacementResult(layers=layers)
    draft_ms = {
        each.draft_model: each.profile.draft_ms
        for _, each in reversed(found.calibrations)  # the latest one counts
        if each.draft_model and each.draft_threads == draft_threads
    }
    link_ms = 1000 * calibration.profile.links_s()
    expectation = Expectation(stages=stages, draft_ms=draft_ms, link_ms=link_ms)
    return PlacementResult(layers=layers, expected=expectation)


def _by_time(
    candidates: Calibrations, ranks: Ranks, n_idle: int
) -> tuple[tuple[LayerRange, ...], Path] | None:
    for path, calibration in candidates:
        if (layers := layers_by_time(calibration, ranks, n_idle)) is not None:
            return layers, path
    return None


def _expected(
    candidates: Calibrations, ranks: Ranks, layers: tuple[LayerRange, ...]
) -> tuple[tuple[StageCurve, ...], Calibration, Path] | None:
    """From a calibration with these very layers if there is one."""
    for path, calibration in sorted(candidates, key=lambda each: each[1].layers != layers):
        if (stages := stages_for(calibration, ranks, layers)) is not None:
            return stages, calibration, path
    return None
