"""`pipeinfer models show`: what is in a GGUF, and what each of N stages would need of memory."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from pipeinfer_cli import console
from pipeinfer_cli.engine import build_info
from pipeinfer_cli.engine.config import F16_CACHE, CacheTypes
from pipeinfer_cli.engine.cpu.exactness import MEANING, inexact
from pipeinfer_cli.engine.formats import StateKind, state_kind, type_name
from pipeinfer_cli.engine.llama_cpp import capture_log
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.models import shards
from pipeinfer_cli.models.gguf import reader
from pipeinfer_cli.models.gguf.info import ModelInfo, read_model_info
from pipeinfer_cli.models.gguf.kv import check_cache_types
from pipeinfer_cli.models.gguf.reader import GgufFile
from pipeinfer_cli.models.layer_split import LayerRange, kv_bytes, split_layers, stage_bytes
from pipeinfer_cli.scheduler.policy import MAX_DRAFT, Policy, kept_states


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowConfig:
    """What `pipeinfer models show` was asked for."""

    model: Path
    n_stages: int | None
    n_ctx: int
    cache_types: CacheTypes = F16_CACHE

    def __post_init__(self) -> None:
        for option, value in (("--stages", self.n_stages), ("-c/--ctx-size", self.n_ctx)):
            if value is not None and value < 1:
                raise UserError(f"{option} {value}: give a number of 1 or more")


def show(config: ShowConfig) -> int:
    """Prints it. Raises UserError for a file that is not a usable model."""
    capture_log()
    files = shards.locate(config.model)
    info = read_model_info(files.head_path)
    header = reader.read(files.head_path)
    check_cache_types(info.kv, config.cache_types)
    each = [LayerRange(layer, layer + 1) for layer in range(info.n_layer)]
    kv = [kv_bytes(info, layer, config.n_ctx, config.cache_types) for layer in each]
    name = str(config.model)
    console.table(("", name), _header_rows(header, info, files.split, config), wrapped=(name,))
    print()
    title: tuple[str, ...] = ("layers", "weights each", f"KV each at -c {config.n_ctx}")
    if info.state_bytes:
        title = (*title, "a state of each")
    console.table(title, _layers(info, kv))
    n_stages = config.n_stages or (files.split.n_stages if files.split else None)
    if n_stages is not None:
        layers = files.layers(n_stages, None) or split_layers(info, n_stages, None)
        print()
        title = ("stage", "layers", "weights", "KV", "together")
        if info.state_bytes:
            title = (*title[:-1], "states", *title[-1:])
        console.table(title, _stages(info, layers, kv))
    return 0


def _n_states(info: ModelInfo, n_stages: int) -> int:
    """Of each recurrent layer, that a text and its drafts take over this number of stages."""
    return kept_states(
        depth=Policy.depth_of(n_stages),
        n_stages=n_stages,
        n_texts=1,
        n_draft_max=MAX_DRAFT,
        inside_runs=state_kind(info.arch) is StateKind.INSIDE_RUNS,
    ).n_states


def _header_rows(
    header: GgufFile, info: ModelInfo, split: shards.Split | None, config: ShowConfig
) -> list[tuple[str, ...]]:
    name = header.text("general.name")
    descent = [header.text(f"pipeinfer.derived.{key}") for key in ("source", "how")]
    rows: list[tuple[str, ...]] = [
        ("name", name or "-"),
        ("architecture", _architecture(info)),
        ("layers", str(info.n_layer)),
        ("hidden state", f"{info.n_embd} floats"),
        ("vocabulary", f"{info.n_vocab} tokens"),
        ("trained context", f"{info.n_ctx_train} tokens"),
        ("weights", console.size(info.bytes_total)),
        ("types of weights", ", ".join(type_name(each) for each in info.weight_types)),
        ("exact texts", _exactness(info, config.cache_types)),
        ("token embedding and such", console.size(info.bytes_input)),
        (
            "output head",
            "the token embedding" if info.tied_output else console.size(info.bytes_output),
        ),
    ]
    if info.n_layer_nextn:
        rows.append(("prediction layers", _prediction_layers(info)))
    if descent[0]:
        rows.append(("derived", f"from {descent[0]}: {descent[1]}"))
    if split is not None:
        rows.append(("shards of", str(split)))
    return rows


def _exactness(info: ModelInfo, types: CacheTypes) -> str:
    why = inexact(build_info.load(), platform.machine(), info.weight_types, types, info.arch)
    return f"no: {why}: {MEANING}" if why else "yes"


def _architecture(info: ModelInfo) -> str:
    if info.obstacle:
        return f"{info.arch}, which cannot be split: {info.obstacle}"
    return info.arch + ("" if info.can_split else ", which cannot be split yet")


def _prediction_layers(info: ModelInfo) -> str:
    if not info.bytes_nextn:
        return f"{info.n_layer_nextn}, not in this file"
    return f"{info.n_layer_nextn}, of {console.size(info.bytes_nextn)}, which are not loaded"


def _layers(info: ModelInfo, kv: Sequence[int]) -> list[tuple[str, ...]]:
    """A row for each group of like layers that follow one another."""
    rows: list[tuple[str, ...]] = []
    states = info.state_bytes or (0,) * info.n_layer
    sizes = list(zip(info.layer_bytes, kv, states, strict=True))
    for same, group in groupby(range(info.n_layer), key=lambda layer: sizes[layer]):
        weights, kv_each, state = same
        layers = list(group)
        shown = str(layers[0]) if len(layers) == 1 else f"{layers[0]}-{layers[-1]}"
        row: tuple[str, ...] = (
            shown,
            console.size(weights),
            _kv_size(kv_each, has_state=state > 0),
        )
        if info.state_bytes:
            row += (console.size(state) if state else "none",)
        rows.append(row)
    return rows


def _stages(
    info: ModelInfo, layers: Sequence[LayerRange], kv: Sequence[int]
) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    n_states = _n_states(info, len(layers))
    for stage, each in enumerate(layers):
        weights, cells = stage_bytes(info, each), sum(kv[each.first : each.last])
        states = n_states * sum(info.state_bytes[each.first : each.last])
        row: tuple[str, ...] = (str(stage), str(each), console.size(weights))
        row += (_kv_size(cells, has_state=states > 0),)
        if info.state_bytes:
            row += (console.size(states),)
        rows.append((*row, console.size(weights + cells + states)))
    return rows


def _kv_size(n_bytes: int, *, has_state: bool) -> str:
    if not n_bytes:
        return "none" if has_state else "unknown"
    return console.size(n_bytes)
