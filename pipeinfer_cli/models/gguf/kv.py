"""What a model's KV cache holds for one token, by layer, and the types that it can have."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pipeinfer_cli.engine.config import CacheTypes
from pipeinfer_cli.engine.formats import tensor_type
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.models.gguf.reader import GgufFile, padded

CELLS = 256  # the KV cache has a multiple of this number of cells


@dataclass(frozen=True, slots=True)
class KvShape:
    """Of one layer: how many floats a token's keys and values have, and those of one head."""

    k: int
    v: int  # 0: values are made from the keys' latent state
    k_head: int
    v_head: int


def kv_shapes(
    header: GgufFile, arch: str, n_layer: int, n_embd: int, *, without: Collection[int] = ()
) -> tuple[KvShape, ...]:
    """By layer; none if the file does not say it, or has tensors of other sizes.

    Some layers may be without keys and values.
    """
    n_heads = _per_layer(header, f"{arch}.attention.head_count", n_layer)
    n_kv_heads = _per_layer(header, f"{arch}.attention.head_count_kv", n_layer) or n_heads
    if n_heads is None or n_kv_heads is None or 0 in n_heads:
        return ()
    whole = [
        header.count(f"{arch}.attention.{name}_length") or n_embd // n_heads[0]
        for name in ("key", "value")
    ]
    of_window = [
        header.count(f"{arch}.attention.{name}_length_swa") or default
        for name, default in zip(("key", "value"), whole, strict=True)
    ]
    windows = header.numbers(f"{arch}.attention.sliding_window_pattern") or ()
    has_window = [bool(each) for each in windows[:n_layer]]
    has_window += [False] * (n_layer - len(has_window))
    is_latent = bool(header.count(f"{arch}.attention.key_length_mla"))
    shapes = []
    for layer, is_window in enumerate(has_window):
        n = 0 if layer in without else n_kv_heads[layer]
        k, v = of_window if is_window else whole
        shapes.append(KvShape(k=n * k, v=0 if is_latent else n * v, k_head=k, v_head=v))
    rows = {tensor.name: tensor.shape[-1] for tensor in header.tensors if tensor.shape}
    fits = all(
        rows.get(f"blk.{layer}.attn_{name}.weight", n) == n
        for layer, shape in enumerate(shapes)
        if shape.k  # those of delta attention are no KV cache
        for name, n in (("k", shape.k), ("v", shape.v))
    )
    return tuple(shapes) if fits else ()


def _per_layer(header: GgufFile, name: str, n_layer: int) -> tuple[int, ...] | None:
    """One number per layer, where the file has one for all, or one for each.

    Prediction layers come after them in the file.
    """
    one = header.count(name)
    if one is not None:
        return (one,) * n_layer
    each = header.numbers(name)
    if each is None or len(each) < n_layer or not all(isinstance(n, int) for n in each):
        return None
    return tuple(int(n) for n in each[:n_layer])


def layer_kv_bytes(shape: KvShape, n_cells: int, types: CacheTypes) -> int:
    """Of one layer's keys and values, in `n_cells` cells."""
    row = sum(
        _row_bytes(n, type_id) for n, type_id in zip((shape.k, shape.v), types.ids, strict=True)
    )
    return row * padded(n_cells, CELLS)


def _row_bytes(n_elements: int, type_id: int) -> int:
    block = tensor_type(type_id)
    assert block is not None
    n_of_block, n_bytes = block
    return -(-n_elements // n_of_block) * n_bytes


def check_cache_types(shapes: tuple[KvShape, ...], types: CacheTypes) -> None:
    """UserError if llama.cpp could not make the cache of a model with these layers."""
    if types.k != types.v and any(shape.k and not shape.v for shape in shapes):
        raise UserError(
            f"{types.options[0]} {types.k} and {types.options[1]} {types.v}: this model caches "
            "keys and values together: give both options the same type"
        )
    for shape in shapes:
        for option, name, type_id, head in (
            (types.options[0], types.k, types.ids[0], shape.k_head),
            (types.options[1], types.v, types.ids[1], shape.v_head),
        ):
            block = tensor_type(type_id)
            if block is not None and head % block[0] != 0:
                raise UserError(
                    f"{option} {name}: its blocks have {block[0]} elements, and this model's heads "
                    f"{head}, which is not a multiple: give f16, bf16 or f32"
                )
