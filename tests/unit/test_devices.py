"""Which rank computes on which device: by options, and by default."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipeinfer_cli.commands.generate_config import GenerateConfig, Prompt
from pipeinfer_cli.engine import build_info
from pipeinfer_cli.engine.cpu.devices import NO_DEVICES, Device, DeviceLayers
from pipeinfer_cli.engine.cpu.exactness import inexact
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.launch.environment import RankResources
from pipeinfer_cli.models.layer_split import LayerRange
from pipeinfer_cli.runtime import cpu_code, devices, placement
from pipeinfer_cli.runtime.config import parse_devices, parse_layers
from pipeinfer_cli.runtime.placement import Layout
from plans import model_info

ONE_LAYER, NO_LAYER = LayerRange(0, 1), LayerRange(0, 0)


def gpu(index: int, **more: Any) -> Device:
    return Device(name=f"CUDA{index}", description="H200", backend="CUDA", **more)


def rank(host: str, n_devices: int, **more: Any) -> RankResources:
    found = tuple(gpu(index, **more) for index in range(n_devices))
    return RankResources(host=host, n_threads=1, devices=found)


def config(**more: Any) -> GenerateConfig:
    return GenerateConfig(model="m", prompt=Prompt(text="p"), **more)


def placed(
    ranks: list[RankResources], layers: list[LayerRange] | None = None, **more: Any
) -> list[tuple[str, ...]]:
    held = layers or [ONE_LAYER] * len(ranks)
    return [each.names for each in devices.of_ranks(config(**more), ranks, held)]


@pytest.mark.parametrize(
    ("text", "counts"),
    [("99", (99,)), ("0,99,all", (0, 99, -1)), ("-1", (-1,)), ("auto", (-1,))],
)
def test_numbers_of_layers(text: str, counts: tuple[int, ...]) -> None:
    assert parse_layers(text) == counts


@pytest.mark.parametrize("text", ["", "x", "1,", "-2", "1.5"])
def test_what_is_not_a_number_of_layers(text: str) -> None:
    with pytest.raises(UserError, match="-ngl/--gpu-layers"):
        parse_layers(text)


@pytest.mark.parametrize("text", ["CUDA0", "none", "none,CUDA0,auto", "CUDA0+CUDA1,Vulkan2"])
def test_names_of_devices(text: str) -> None:
    assert parse_devices(text) == tuple(text.split(","))


@pytest.mark.parametrize("text", ["", ",", "CUDA0,", "a b", "+", "CUDA0+"])
def test_what_cannot_be_a_device(text: str) -> None:
    with pytest.raises(UserError, match="--device"):
        parse_devices(text)


@pytest.mark.parametrize("shape", [-1, 33])
def test_a_shape_out_of_range(shape: int) -> None:
    with pytest.raises(UserError, match=f"--exact-shape {shape}"):
        config(exact_shape=shape)


def test_without_devices_nothing_is_placed() -> None:
    assert placed([rank("a", 0), rank("a", 0)]) == [(), ()]
    assert placed([rank("a", 0)], gpu_layers=(99,)) == [()]


def test_ranks_of_a_host_share_its_devices() -> None:
    assert placed([rank("a", 2)] * 2) == [("CUDA0",), ("CUDA1",)]
    assert placed([rank("a", 2)] * 4) == [("CUDA0",), ("CUDA0",), ("CUDA1",), ("CUDA1",)]
    assert placed([rank("a", 4)] * 2) == [("CUDA0", "CUDA1"), ("CUDA2", "CUDA3")]
    assert placed([rank("a", 1), rank("b", 1)]) == [("CUDA0",), ("CUDA0",)]


def test_a_rank_without_layers_takes_no_device_from_others() -> None:
    layers = [NO_LAYER, ONE_LAYER, ONE_LAYER]
    assert placed([rank("a", 2)] * 3, layers) == [(), ("CUDA0",), ("CUDA1",)]
    assert placed([rank("a", 2)] * 3, layers, devices=("CUDA0",))[0] == ()


def test_a_gpu_of_the_processor_gives_way_to_others() -> None:
    own = replace(gpu(1), is_integrated=True)
    resources = RankResources(host="a", n_threads=1, devices=(own, gpu(0)))
    assert placed([resources]) == [("CUDA0",)]
    assert placed([replace(resources, devices=(own,))]) == [("CUDA1",)]


def test_options_by_rank() -> None:
    ranks = [rank("a", 2)] * 3
    assert placed(ranks, devices=("none", "CUDA1", "CUDA0+CUDA1")) == [
        (),
        ("CUDA1",),
        ("CUDA0", "CUDA1"),
    ]
    found = devices.of_ranks(config(gpu_layers=(0, 5, -1)), ranks, [ONE_LAYER] * 3)
    assert found[0] == NO_DEVICES
    assert [each.n_layers for each in found[1:]] == [5, -1]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"gpu_layers": (1, 2)}, "-ngl/--gpu-layers has 2 values for 3 ranks"),
        ({"devices": ("none", "none")}, "--device has 2 values for 3 ranks"),
        ({"devices": ("CUDA5",)}, "--device CUDA5: rank 0 on a has CUDA0, CUDA1"),
    ],
)
def test_options_that_do_not_fit(more: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        placed([rank("a", 2)] * 3, **more)


def test_an_emulated_cluster_computes_on_the_processor() -> None:
    assert placed([rank("a", 1)], emulate="cpu70b-8-ib") == [()]
    assert placed([rank("a", 1)], emulate="cpu70b-8-ib", devices=("CUDA0",)) == [("CUDA0",)]


def test_the_shape_is_fixed_where_there_are_devices() -> None:
    on, off = [DeviceLayers(names=("CUDA0",))], [NO_DEVICES]
    assert devices.exact_shape(config(), on, can_be_exact=True) == 16
    assert devices.exact_shape(config(), on, can_be_exact=False) == 0
    assert devices.exact_shape(config(), off, can_be_exact=True) == 0
    assert devices.exact_shape(config(exact_shape=8), off, can_be_exact=True) == 8
    assert devices.exact_shape(config(exact_shape=0), on, can_be_exact=True) == 0


def test_in_words_ranks_that_are_alike_are_named_together() -> None:
    ranks = [rank("a", 1)] * 3
    found = devices.of_ranks(config(gpu_layers=(-1, -1, 3)), ranks, [ONE_LAYER] * 3)
    assert devices.in_words(found, ranks) == (
        "rank 0-1: all layers on CUDA0 (H200); rank 2: at most 3 layers on CUDA0 (H200)"
    )


def test_what_makes_texts_inexact_on_devices() -> None:
    build = build_info.BuildInfo(
        upstream_package="llama-cpp-python",
        upstream_version="1",
        patches=(),
        compiler="GNU",
        build_type="Release",
        ggml_options={"GGML_VULKAN": "ON"},
    )
    machine = "x86_64"
    tested = Device(name="Vulkan0", description="llvmpipe (LLVM 15)", backend="Vulkan")
    other = replace(tested, description="H200")
    assert inexact(build, machine) == ""
    assert "Vulkan" in inexact(build, machine, devices=[tested])
    assert inexact(build, machine, devices=[tested], exact_shape=16) == ""
    assert "--exact-shape 1" in inexact(build, machine, devices=[tested], exact_shape=1)
    assert "Vulkan on H200" in inexact(build, machine, devices=[tested, other], exact_shape=16)
    assert "CUDA on H200" in inexact(build, machine, devices=[gpu(0)], exact_shape=16)
    assert inexact(build, "riscv64", exact_shape=8) == ""
    assert "an expert" in inexact(build, "riscv64", exact_shape=8, has_experts=True)
    assert "an expert" in inexact(build, machine, devices=[tested], exact_shape=8, has_experts=True)
    assert inexact(build, machine, exact_shape=8, has_experts=True) == ""


def test_a_mixture_of_devices_is_said() -> None:
    ranks, layers = [rank("a", 1)] * 3, [NO_LAYER, ONE_LAYER, ONE_LAYER]
    assert cpu_code.mixture(layers, ranks, ("", "H200", "H200")) == ""
    said = cpu_code.mixture(layers, ranks, ("", "", "H200"))
    assert "(rank 1 with its processor, rank 2 with H200)" in said


def test_a_plan_shows_devices_and_says_where_memory_is_short() -> None:
    model = model_info((1000, 2000), bytes_input=10, bytes_output=500)
    ranks = [rank("a", 1, free_bytes=3000, total_bytes=4000)] * 2
    layout = Layout(
        model=model,
        layers=[LayerRange(0, 1), LayerRange(1, 2)],
        kv_bytes=(100, 100),
        devices=[DeviceLayers(names=("CUDA0",))] * 2,
        exact_shape=16,
    )
    assert layout.header[-1] == "devices"
    assert [row[-1] for row in placement.rows(layout, ranks)] == ["CUDA0", "CUDA0"]
    plan = placement.as_dict(layout, ranks)
    assert (plan["exact_shape"], plan["ranks"][0]["devices"]) == (16, ["CUDA0"])
    (warning,) = placement.memory_warnings(layout, ranks)
    assert warning.startswith("CUDA0 on a: 3.7 kB of tensors and KV cache, but 3.0 kB free")
