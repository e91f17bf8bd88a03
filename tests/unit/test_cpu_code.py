"""Variants of the CPU backend: their names, which one a rank gets, and what a mixture is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeinfer_cli.commands.generate_config import GenerateConfig, Prompt
from pipeinfer_cli.engine.cpu import variants
from pipeinfer_cli.engine.cpu.variants import CpuCode
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.launch.environment import RankResources
from pipeinfer_cli.models.layer_split import LayerRange
from pipeinfer_cli.runtime import cpu_code, placement

ZEN4 = CpuCode(variant="zen4", math="glibc 2.36", usable=("zen4", "haswell", "sse42"))
HASWELL = CpuCode(variant="haswell", math="glibc 2.36", usable=("haswell", "sse42"))
IVY_BRIDGE = CpuCode(variant="sse42", math="glibc 2.36 without FMA", usable=("sse42",))
ONE_LAYER = LayerRange(0, 1)


def ranks(*codes: CpuCode) -> list[RankResources]:
    return [RankResources(host="a", n_threads=1, cpu=code) for code in codes]


def said(*codes: CpuCode) -> str:
    return cpu_code.mixture([ONE_LAYER] * len(codes), ranks(*codes))


def config(*names: str) -> GenerateConfig:
    return GenerateConfig(model="m", prompt=Prompt(text="p"), cpu_variants=names)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("haswell", ("haswell",)),
        ("AVX2", ("haswell",)),
        ("zen4,avx2,sse42", ("zen4", "haswell", "sse42")),
        ("armv8.2_1", ("armv8.2_1",)),
    ],
)
def test_names(text: str, names: tuple[str, ...]) -> None:
    assert variants.parse(text) == names


@pytest.mark.parametrize("text", ["", ",", "haswell,", "../haswell", "a b", "*"])
def test_what_cannot_be_a_name(text: str) -> None:
    with pytest.raises(UserError, match="--cpu-variant"):
        variants.parse(text)


def test_each_rank_has_its_own_or_all_the_same() -> None:
    assert [config().cpu_variant_of(rank) for rank in (0, 5)] == [None, None]
    assert [config("sse42").cpu_variant_of(rank) for rank in (0, 5)] == ["sse42", "sse42"]
    listed = config("zen4", "sse42")
    assert [listed.cpu_variant_of(rank) for rank in range(3)] == ["zen4", "sse42", None]


@pytest.mark.parametrize(("n_names", "fits"), [(0, True), (1, True), (3, True), (2, False)])
def test_a_list_has_a_name_for_each_rank(n_names: int, fits: bool) -> None:
    if fits:
        placement.check(config(*["sse42"] * n_names), ranks(HASWELL, HASWELL, HASWELL))
    else:
        with pytest.raises(UserError, match="--cpu-variant has 2 names for 3 ranks"):
            placement.check(config(*["sse42"] * n_names), ranks(HASWELL, HASWELL, HASWELL))


def test_equal_ranks_are_no_mixture_whatever_else_they_could_use() -> None:
    assert said(HASWELL, HASWELL) == ""
    assert said(HASWELL, replace(HASWELL, usable=ZEN4.usable)) == ""
    assert said(HASWELL) == ""


def test_a_mixture_names_the_ranks_and_the_best_that_all_have() -> None:
    text = said(ZEN4, HASWELL, ZEN4, ZEN4)
    assert "(rank 0,2-3 with zen4, rank 1 with haswell)" in text
    assert text.endswith(": --cpu-variant haswell makes them alike")


def test_no_variant_makes_ranks_alike_whose_c_libraries_compute_otherwise() -> None:
    assert "makes them alike" not in said(HASWELL, IVY_BRIDGE)


def test_what_else_differs_is_shown_where_names_do_not() -> None:
    text = said(HASWELL, replace(HASWELL, math="glibc 2.17"))
    assert "haswell, glibc 2.36" in text
    assert "haswell, glibc 2.17" in text


def test_a_rank_without_layers_computes_nothing_of_the_text() -> None:
    layers = [LayerRange(0, 0), ONE_LAYER, ONE_LAYER]
    assert cpu_code.mixture(layers, ranks(ZEN4, HASWELL, HASWELL)) == ""


def test_errors_of_ranks_are_one_line() -> None:
    errors = [("n1", "x"), ("n1", ""), ("n2", "x"), ("n3", "y")]
    assert cpu_code.by_reason(errors) == "rank 0,2 on n1, n2: x; rank 3 on n3: y"


@pytest.mark.parametrize(
    ("flags", "has_fma"), [("sse4_2 avx", False), ("avx avx2 fma", True), (None, True)]
)
def test_functions_are_others_without_fma(
    flags: str | None, has_fma: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cpuinfo"
    if flags is not None:
        file.write_text(f"processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: {flags}\n\n")
    monkeypatch.setattr(variants, "CPUINFO", file)
    assert variants.math_library().endswith(" without FMA") != has_fma


def test_the_processor_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: A: Processor 1\nflags: x\n")
    monkeypatch.setattr(variants, "CPUINFO", tmp_path / "cpuinfo")
    assert variants.processor() == "A: Processor 1"
    monkeypatch.setattr(variants, "CPUINFO", tmp_path / "none")
    assert variants.processor()


def test_variants_of_a_folder(tmp_path: Path) -> None:
    for name in ("libggml-cpu-zen4.so", "libggml-cpu-sse42.so", "libggml-cpu.so", "libggml.so"):
        (tmp_path / name).touch()
    assert variants.built(tmp_path) == ("sse42", "zen4")
