"""Checks of random trees, and of runs of one shape: for the CPU's kernels and those of devices."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.scheduler.kv_sequences import spare_cells
from pipeinfer_cli.scheduler.policy import DEFAULT_DRAFT, Policy
from small_models import N_VOCAB
from support import PROMPTS, TIMEOUT_S, run_ranks

# Far fewer cells than tokens: those of removed branches must be used again.
N_TREE_CELLS = 256


def check_trees(
    model: Path,
    layers: list[list[int]],
    *,
    n_rounds: int,
    more_than: int = 0,
    timeout_s: float = TIMEOUT_S,
    **more: Any,
) -> None:
    """Random trees on these stages against one token at a time on one: see trees.py.

    With more compactions, and tokens of several branches, than `more_than` of each. Some cancels
    must come in time; how many depends on what else the machine does.
    """
    request = {
        "model": str(model),
        "layers": layers,
        "n_layer": layers[-1][-1],
        "n_vocab": N_VOCAB,
        "n_ctx": N_TREE_CELLS,
        "seed": len(layers),
        "n_rounds": n_rounds,
        **more,
    }
    seen = run_ranks(len(layers), "trees.py", request, timeout_s=timeout_s)
    assert seen["positions"] == [0 if first < last else -1 for first, last in layers]
    assert seen["rows"] > 5 * n_rounds, seen
    assert seen["logits"] > n_rounds // 4, seen
    assert min(seen["compactions"], seen["shared"]) > more_than, seen
    assert seen["cancelled"] > 0, seen


def texts(
    model: Path,
    weights: list[float],
    cases: list[dict[str, Any]],
    *,
    n_predict: int,
    n_texts: int = 2,
    timeout_s: float = 100.0,
    **more: Any,
) -> list[Any]:
    """What tokens.py prints: per case, the texts that follow some prompts."""
    prompts = _prompts(model)[:n_texts]
    n_ctx = max(map(len, prompts)) + n_predict
    depth = Policy.depth_of(len(weights) - (weights[0] == 0))
    request = {
        "model": str(model),
        "layer_split": weights,
        "prompts": prompts,
        "n_predict": n_predict,
        "n_ctx": n_ctx,
        "n_cells": n_ctx + spare_cells(DEFAULT_DRAFT, depth),
        "cases": cases,
        **more,
    }
    return list(run_ranks(len(weights), "tokens.py", request, timeout_s=timeout_s))


def check_texts(model: Path, weights: list[float], cases: list[dict[str, Any]], **more: Any) -> Any:
    """The texts of all cases are those of the first; returns them."""
    first, *others = texts(model, weights, cases, **more)
    for case, seen in zip(cases[1:], others, strict=True):
        assert seen["tokens"] == first["tokens"], case
    return first["tokens"]


@cache
def _prompts(model: Path) -> list[list[int]]:
    vocab = Vocab(model)
    return [vocab.tokenize(text)[:40] for text in PROMPTS[3:9]]
