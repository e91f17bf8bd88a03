"""Whether texts are those of plain decoding, byte for byte: all that reports it asks here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeinfer_cli.engine.build_info import BuildInfo
from pipeinfer_cli.engine.config import CACHE_TYPES, CacheTypes
from pipeinfer_cli.engine.cpu.devices import DEVICE_BACKENDS, LEAST_EXACT_SHAPE, Device
from pipeinfer_cli.engine.formats import stage_archs, type_name

# Whose kernels the tests compare with the unpatched library's, and where they run.
WEIGHT_TYPES = {  # enum ggml_type: tests/native/test_kernels.py
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K",
    11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS",
    19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 29: "IQ1_M", 30: "BF16",
    34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0", 42: "Q2_0",
}  # fmt: skip
EXACT_CACHE_TYPES = frozenset(CACHE_TYPES)  # tests/native/test_cache_types.py
# Run whole: tests/native/test_architecture_shapes.py. Those that split are tested, too.
WHOLE_ARCHS = frozenset({"gemma3n"})
EXACT_MACHINES = ("x86_64", "amd64")
MEANING = "the text may depend on how many tokens are computed at a time"


def inexact(
    build: BuildInfo,
    machine: str,
    weight_types: Iterable[int] = (),
    cache_types: CacheTypes | None = None,
    arch: str | None = None,
    *,
    devices: Sequence[Device] = (),
    exact_shape: int = 0,
    has_experts: bool = False,
) -> str:
    """Why texts may differ from those of plain decoding, naming what it is; empty: they do not.

    `machine` is a processor as platform.machine() has it, `weight_types` are enum ggml_type, `arch`
    is a model's general.architecture, `devices` are those that compute layers. With runs of one
    shape, plain decoding has that shape, too.
    """
    if arch is not None and arch not in stage_archs() and arch not in WHOLE_ARCHS:
        return f"no test shows that models of architecture {arch} give exact texts"
    kernels = _inexact_kernels(build, machine, weight_types, cache_types, devices)
    if not exact_shape:
        return kernels
    if kernels and has_experts:
        return "how many tokens an expert computes at a time depends on the run, whatever its shape"
    return _inexact_shape(devices, exact_shape)


def _inexact_kernels(
    build: BuildInfo,
    machine: str,
    weight_types: Iterable[int],
    cache_types: CacheTypes | None,
    devices: Sequence[Device],
) -> str:
    """The same of kernels that compute several tokens at a time, as many as a run has."""
    if devices:
        used = dict.fromkeys(device.backend for device in devices)
        return f"layers are computed with {', '.join(used)}, whose sums are not exact"
    if machine.lower() not in EXACT_MACHINES:
        return f"no kernels for exact texts on {machine} processors"
    if backends := ", ".join(each for each in build.other_backends if each not in DEVICE_BACKENDS):
        return f"llama.cpp was built with {backends}, whose sums are not exact"
    if others := sorted(set(weight_types) - WEIGHT_TYPES.keys()):
        names = ", ".join(type_name(each) for each in others)
        return f"no test shows that weights of type {names} give exact texts"
    caches = () if cache_types is None else (cache_types.k, cache_types.v)
    if uncovered := sorted(set(caches) - EXACT_CACHE_TYPES):
        return f"no test shows that KV caches of type {', '.join(uncovered)} give exact texts"
    return ""


def _inexact_shape(devices: Sequence[Device], exact_shape: int) -> str:
    """The same of runs of one shape; on processors they are exact whatever the kernels."""
    if devices and exact_shape < LEAST_EXACT_SHAPE:
        least = LEAST_EXACT_SHAPE
        return f"--exact-shape {exact_shape}: with devices, texts are exact from {least} tokens on"
    for device in devices:
        if not device.is_tested:
            return (
                "no test shows that runs of one shape give exact texts with "
                f"{device.backend} on {device.description}"
            )
    return ""
