"""`pipeinfer models show`: what is in a GGUF, and what each of N stages would need of memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from pipeinfer_cli import console
from pipeinfer_cli.engine.llama_cpp import capture_log
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.models import shards
from pipeinfer_cli.models.gguf import reader
from pipeinfer_cli.models.gguf.info import ModelInfo, read_model_info
from pipeinfer_cli.models.gguf.reader import GgufFile
from pipeinfer_cli.models.layer_split import LayerRange, split_layers, stage_bytes

KV_BYTES = 2  # keys and values are F16
CELLS = 256  # the KV cache has a multiple of this number of cells


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowConfig:
    """What `pipeinfer models show` was asked for."""

    model: Path
    n_stages: int | None
    n_ctx: int

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
    kv_bytes = kv_layer_bytes(header, info, config.n_ctx)
    name = str(config.model)
    console.table(("", name), _header_rows(header, info, files.split), wrapped=(name,))
    print()
    console.table(
        ("layers", "weights each", f"KV each at -c {config.n_ctx}"), _layers(info, kv_bytes)
    )
    n_stages = config.n_stages or (files.split.n_stages if files.split else None)
    if n_stages is not None:
        layers = files.layers(n_stages, None) or split_layers(info, n_stages, None)
        print()
        console.table(
            ("stage", "layers", "weights", "KV", "together"), _stages(info, layers, kv_bytes)
        )
    return 0


def kv_layer_bytes(header: GgufFile, info: ModelInfo, n_ctx: int) -> tuple[int, ...]:
    """Bytes of keys and values per layer for a context of `n_ctx` tokens; zeros if unknown."""
    n_cells = reader.padded(n_ctx, CELLS)
    n_heads = _per_layer(header, info, "attention.head_count")
    n_kv_heads = _per_layer(header, info, "attention.head_count_kv") or n_heads
    if n_heads is None or n_kv_heads is None or 0 in n_heads:
        return (0,) * info.n_layer
    default = info.n_embd // n_heads[0]
    k_length = header.count(f"{info.arch}.attention.key_length") or default
    v_length = header.count(f"{info.arch}.attention.value_length") or default
    if header.count(f"{info.arch}.attention.key_length_mla"):
        v_length = 0  # values are made from the keys' latent state
    return tuple(n * (k_length + v_length) * KV_BYTES * n_cells for n in n_kv_heads)


def _per_layer(header: GgufFile, info: ModelInfo, name: str) -> tuple[int, ...] | None:
    """One number per layer, where the file has one for all, or one for each."""
    one = header.count(f"{info.arch}.{name}")
    if one is not None:
        return (one,) * info.n_layer
    each = header.numbers(f"{info.arch}.{name}")
    if each is None or len(each) != info.n_layer + info.n_layer_nextn:
        return None
    return tuple(int(value) for value in each[: info.n_layer])


def _header_rows(
    header: GgufFile, info: ModelInfo, split: shards.Split | None
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


def _architecture(info: ModelInfo) -> str:
    if info.obstacle:
        return f"{info.arch}, which cannot be split: {info.obstacle}"
    return info.arch + ("" if info.can_split else ", which cannot be split yet")


def _prediction_layers(info: ModelInfo) -> str:
    if not info.bytes_nextn:
        return f"{info.n_layer_nextn}, not in this file"
    return f"{info.n_layer_nextn}, of {console.size(info.bytes_nextn)}, which are not loaded"


def _layers(info: ModelInfo, kv_bytes: Sequence[int]) -> list[tuple[str, ...]]:
    """A row for each group of like layers that follow one another."""
    rows: list[tuple[str, ...]] = []
    sizes = list(zip(info.layer_bytes, kv_bytes, strict=True))
    for (weights, kv), group in groupby(range(info.n_layer), key=lambda layer: sizes[layer]):
        layers = list(group)
        shown = str(layers[0]) if len(layers) == 1 else f"{layers[0]}-{layers[-1]}"
        rows.append((shown, console.size(weights), _kv_size(kv)))
    return rows


def _stages(
    info: ModelInfo, layers: Sequence[LayerRange], kv_bytes: Sequence[int]
) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for stage, each in enumerate(layers):
        weights, kv = stage_bytes(info, each), sum(kv_bytes[each.first : each.last])
        both = (console.size(weights), _kv_size(kv), console.size(weights + kv))
        rows.append((str(stage), str(each), *both))
    return rows


def _kv_size(n_bytes: int) -> str:
    return console.size(n_bytes) if n_bytes else "unknown"
