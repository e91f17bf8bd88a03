"""Whether texts are exact: one place decides, and none of what it decides about is silent."""

from __future__ import annotations

from dataclasses import replace

import pytest

from architectures import TINY_MODELS, WHOLE_MODELS
from mul_mats import TYPES
from pipeinfer_cli.engine import build_info
from pipeinfer_cli.engine.config import CACHE_TYPES, CacheTypes
from pipeinfer_cli.engine.cpu import exactness
from pipeinfer_cli.engine.cpu.exactness import WEIGHT_TYPES, WHOLE_ARCHS, inexact
from pipeinfer_cli.engine.formats import MAX_TENSOR_TYPES, stage_archs, tensor_type, type_name
from pipeinfer_cli.models.gguf.info import NOT_MULTIPLIED

ALL_TYPES = [type_id for type_id in range(MAX_TENSOR_TYPES) if tensor_type(type_id) is not None]
CPU = {"GGML_CPU": "ON", "GGML_NATIVE": "ON", "GGML_AVX2": "ON"}


def build(**options: str) -> build_info.BuildInfo:
    return replace(build_info.load(), ggml_options={**CPU, **options})


@pytest.mark.parametrize(
    ("machine", "options", "said"),
    [
        ("x86_64", {}, ""),
        ("AMD64", {"GGML_CPU_REPACK": "ON", "GGML_BLAS": "OFF"}, ""),
        ("x86_64", {"GGML_BLAS": "ON", "GGML_CUDA": "ON"}, "with BLAS, whose"),
        ("x86_64", {"GGML_CUDA": "ON"}, ""),  # only its devices' sums differ
        ("aarch64", {}, "no kernels for exact texts on aarch64"),
    ],
)
def test_processors_and_backends(machine: str, options: dict[str, str], said: str) -> None:
    why = inexact(build(**options), machine)
    assert said in why
    assert bool(said) == bool(why)


def test_the_types_are_those_that_the_kernels_tests_compare() -> None:
    assert {name: type_id for type_id, name in WEIGHT_TYPES.items()} == TYPES
    assert {type_name(type_id): type_id for type_id in WEIGHT_TYPES} == TYPES


def test_every_type_of_the_library_is_exact_or_refused() -> None:
    assert len(ALL_TYPES) > 30
    assert WEIGHT_TYPES.keys() | NOT_MULTIPLIED.keys() == set(ALL_TYPES)
    assert not WEIGHT_TYPES.keys() & NOT_MULTIPLIED.keys()


def test_a_type_without_a_test_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert inexact(build(), "x86_64", WEIGHT_TYPES) == ""
    monkeypatch.delitem(exactness.WEIGHT_TYPES, TYPES["Q2_K"])
    monkeypatch.delitem(exactness.WEIGHT_TYPES, TYPES["MXFP4"])
    assert inexact(build(), "x86_64", {TYPES["F32"], TYPES["Q4_K"]}) == ""
    assert inexact(build(), "x86_64", ALL_TYPES).startswith("no test shows that weights of type ")
    assert inexact(build(), "x86_64", TYPES.values()) == (
        "no test shows that weights of type Q2_K, MXFP4 give exact texts"
    )
    assert "of type 900 give" in inexact(build(), "x86_64", {900})


def test_an_architecture_without_a_test_is_named() -> None:
    tested = {model.arch for model in (*TINY_MODELS, *WHOLE_MODELS)}
    assert tested == {*stage_archs(), *WHOLE_ARCHS}
    for arch in tested:
        assert inexact(build(), "x86_64", arch=arch) == ""
    assert inexact(build(), "x86_64", arch="gpt2") == (
        "no test shows that models of architecture gpt2 give exact texts"
    )


def test_a_cache_without_a_test_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CACHE_TYPES:
        assert inexact(build(), "x86_64", (), CacheTypes(name, name)) == ""
    monkeypatch.setattr(exactness, "EXACT_CACHE_TYPES", frozenset({"f16"}))
    assert inexact(build(), "x86_64", (), CacheTypes("q8_0", "f16")) == (
        "no test shows that KV caches of type q8_0 give exact texts"
    )
