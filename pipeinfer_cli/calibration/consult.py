"""What a job takes from the cache: where its layers go, and what its runs are expected to cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeinfer_cli import log
from pipeinfer_cli.calibration import cache
from pipeinfer_cli.calibration.entry import Calibration, Identity
from pipeinfer_cli.calibration.expect import Expectation, Ranks, layers_by_time, stages_for
from pipeinfer_cli.emulation.profile import StageCurve
from pipeinfer_cli.engine.gguf_info import ModelInfo
from pipeinfer_cli.launch.environment import Seat
from pipeinfer_cli.models.layer_split import LayerRange

Kept = Sequence[tuple[Path, Calibration]]  # the latest first


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Layers by rank, and what there is to expect of them."""

    layers: tuple[LayerRange, ...]
    expected: Expectation | None = None  # None: there is no calibration


def consult(
    model_path: Path,
    model: ModelInfo,
    seats: Sequence[Seat],
    layers: tuple[LayerRange, ...],
    *,
    may_move: bool,
    draft_threads: int,
    verbose: bool,
) -> Placed:
    """`layers` (by rank) as they are, or with `may_move` in equal times, as far as is known."""
    found = cache.find(Identity.of(model_path, seats))
    ranks = Ranks(seats=tuple(seats), layer_bytes=model.layer_bytes)
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
        return Placed(layers=layers)
    draft_ms = {
        each.draft_model: each.profile.draft_ms
        for _, each in reversed(found.calibrations)  # the latest one counts
        if each.draft_model and each.draft_threads == draft_threads
    }
    link_ms = 1000 * calibration.profile.links_s()
    expectation = Expectation(stages=stages, draft_ms=draft_ms, link_ms=link_ms)
    return Placed(layers=layers, expected=expectation)


def _by_time(kept: Kept, ranks: Ranks, n_idle: int) -> tuple[tuple[LayerRange, ...], Path] | None:
    for path, calibration in kept:
        if (layers := layers_by_time(calibration, ranks, n_idle)) is not None:
            return layers, path
    return None


def _expected(
    kept: Kept, ranks: Ranks, layers: tuple[LayerRange, ...]
) -> tuple[tuple[StageCurve, ...], Calibration, Path] | None:
    """From a calibration with these very layers if there is one."""
    for path, calibration in sorted(kept, key=lambda each: each[1].layers != layers):
        if (stages := stages_for(calibration, ranks, layers)) is not None:
            return stages, calibration, path
    return None
