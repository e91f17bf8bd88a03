"""Which rank holds which layers."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from pipeinfer_cli.engine.config import CacheTypes
from pipeinfer_cli.engine.formats import stage_archs
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.models.gguf.info import ModelInfo
from pipeinfer_cli.models.gguf.kv import layer_kv_bytes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class LayerRange:
    """The layers `[first, last)` of one rank; a head without layers has `first == last`."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first

    def __str__(self) -> str:
        return f"[{self.first}, {self.last})"


def split_layers(
    model: ModelInfo, n_ranks: int, weights: Sequence[float] | None
) -> tuple[LayerRange, ...]:
    """A range per rank, in the order of the ranks. Raises UserError if it cannot be done.

    `weights` are shares of the number of layers; None splits evenly by bytes. Every stage gets at
    least one layer; only rank 0 may have the weight 0, and then holds none.
    """
    if weights is not None and len(weights) != n_ranks:
        raise UserError(
            f"--layer-split has {len(weights)} weights for {n_ranks} ranks: give one per rank"
        )
    has_idle_head = weights is not None and weights[0] == 0
    n_stages = n_ranks - has_idle_head
    if n_stages > model.n_layer:
        raise UserError(
            f"{n_stages} stages for a model of {model.n_layer} layers: "
            f"use at most {model.n_layer + has_idle_head} ranks"
        )
    if n_stages > 1 and model.obstacle:
        raise UserError(
            f"this model of architecture {model.arch!r} cannot be split by layers: "
            f"{model.obstacle}: use --ranks 1, or another model"
        )
    if n_stages > 1 and not model.can_split:
        raise UserError(
            f"models of architecture {model.arch!r} cannot be split by layers yet: use --ranks 1 "
            f"({len(stage_archs())} others can: see docs/architectures.md)"
        )
    if weights is None:
        shares, costs = [1.0] * n_stages, stage_costs(model)
    else:
        shares, costs = list(weights[has_idle_head:]), [1.0] * model.n_layer
    head = (LayerRange(0, 0),) if has_idle_head else ()
    return head + _cut(costs, shares)


def split_by_time(times: npt.NDArray[np.float64]) -> tuple[LayerRange, ...]:
    """A range per stage, none of them empty, so that the slowest stage takes the least time.

    `times` is float64 `[n_stages, n_layer]`: what each layer takes on each stage.
    """
    import numpy as np  # of a job without a calibration, nothing needs it

    n_stages, n_layer = times.shape
    assert 1 <= n_stages <= n_layer
    until = np.concatenate([np.zeros((n_stages, 1)), np.cumsum(times, axis=1)], axis=1)
    slowest = until[0].copy()  # by end: of the stages so far, if they hold the layers before it
    slowest[0] = np.inf
    cuts = np.zeros((n_stages, n_layer + 1), dtype=np.int64)  # where the last of them begins
    for stage in range(1, n_stages):
        before, slowest = slowest, np.full(n_layer + 1, np.inf)
        for end in range(stage + 1, n_layer + 1):
            mine = until[stage, end] - until[stage, :end]
            both = np.maximum(before[:end], mine)
            cuts[stage, end] = np.argmin(both)
            slowest[end] = both[cuts[stage, end]]
    ends = [n_layer]
    for stage in range(n_stages - 1, 0, -1):
        ends.insert(0, int(cuts[stage, ends[0]]))
    return tuple(LayerRange(first, last) for first, last in zip((0, *ends), ends, strict=False))


def stage_costs(model: ModelInfo) -> list[float]:
    """Bytes that a token's way through each layer reads; the output head counts with the last.

    A token reads one row of the token embedding: the rest of it stays in the file.
    """
    costs = [float(count) for count in model.layer_bytes]
    costs[-1] += model.bytes_output + (model.bytes_input if model.tied_output else 0)
    return costs


def stage_bytes(model: ModelInfo, layers: LayerRange) -> int:
    """Bytes that a token's way through these layers reads: what this rank keeps in memory."""
    return int(sum(stage_costs(model)[layers.first : layers.last]))


def kv_bytes(model: ModelInfo, layers: LayerRange, n_cells: int, types: CacheTypes) -> int:
    """Bytes of these layers' keys and values in `n_cells` cells; 0 if the model does not say it."""
    held = model.kv[layers.first : layers.last]
    return sum(layer_kv_bytes(shape, n_cells, types) for shape in held)


def _cut(costs: Sequence[float], shares: Sequence[float]) -> tuple[LayerRange, ...]:
    """Ranges whose summed costs come close to the shares, none of them empty."""
    ends = list(accumulate(costs))
    cuts = [0]
    for index, share in enumerate(accumulate(shares[:-1])):
        target = ends[-1] * share / sum(shares)
        above = bisect_left(ends, target)
        below = ends[above - 1] if above > 0 else 0.0
        nearest = above + 1 if ends[above] - target < target - below else above
        stages_to_come = len(shares) - 1 - index
        cuts.append(min(max(nearest, cuts[-1] + 1), len(costs) - stages_to_come))
    cuts.append(len(costs))
    return tuple(LayerRange(first, last) for first, last in zip(cuts, cuts[1:], strict=False))
