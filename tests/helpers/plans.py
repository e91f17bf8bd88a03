"""Models and plans for tests that load none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeinfer_cli.models.gguf.info import ModelInfo
from pipeinfer_cli.models.layer_split import LayerRange
from pipeinfer_cli.models.shards import ModelFiles
from pipeinfer_cli.runtime.pipeline import Plan


def model_info(
    layer_bytes: Sequence[int], *, bytes_input: int = 0, bytes_output: int = 0, **more: Any
) -> ModelInfo:
    """A Llama with layers of these sizes; the sum of all bytes is right."""
    usual: dict[str, Any] = {
        "arch": "llama",
        "n_embd": 64,
        "n_vocab": 100,
        "n_ctx_train": 512,
        "can_split": True,
        "tied_output": False,
    }
    return ModelInfo(
        n_layer=len(layer_bytes),
        layer_bytes=tuple(layer_bytes),
        bytes_input=bytes_input,
        bytes_output=bytes_output,
        bytes_total=sum(layer_bytes) + bytes_input + bytes_output,
        **{**usual, **more},
    )


def plan_of(layers: Sequence[LayerRange], n_ctx: int, **more: Any) -> Plan:
    """A plan with a rank for each range of layers, and a cell for each token."""
    path = Path("m.gguf")
    usual: dict[str, Any] = {"model": model_info((1,) * max(each.last for each in layers))}
    return Plan(
        files=ModelFiles(name=path, head_path=path, split=None),
        layers=tuple(layers),
        n_ctx=n_ctx,
        n_cells=n_ctx,
        **{**usual, **more},
    )
