"""Devices that layers can be given to: those of ggml's backends beside the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import byref, c_size_t
from dataclasses import dataclass

from pipeinfer_cli import console
from pipeinfer_cli.engine import abi
from pipeinfer_cli.engine.abi import decoded

GPU, INTEGRATED_GPU = 1, 2  # enum ggml_backend_dev_type
ALL_LAYERS = -1
# Whose kernels in runs of one shape tests/vulkan covers: by backend, how the description of the
# device that ran them begins. Other devices of a backend take other kernels, and are not covered.
TESTED_BACKENDS = {"Vulkan": "llvmpipe"}  # as Mesa's lavapipe calls itself
DEFAULT_EXACT_SHAPE = 16
# For one token, Vulkan fuses the last addition of a layer with the first norm of the next. Where a
# stage begins it cannot, and adds up in another order.
LEAST_EXACT_SHAPE = 2
# Backends of a build whose sums differ only where layers are given to their devices.
DEVICE_BACKENDS = frozenset(
    {"CANN", "CUDA", "HIP", "METAL", "MUSA", "OPENCL", "SYCL", "VULKAN", "WEBGPU"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device that a process can use."""

    name: str  # as ggml calls it: CUDA0
    description: str = ""
    backend: str = ""  # CUDA, Vulkan
    free_bytes: int = 0
    total_bytes: int = 0
    is_integrated: bool = False

    @property
    def is_tested(self) -> bool:
        """Whether tests show that runs of one shape are exact there."""
        begin = TESTED_BACKENDS.get(self.backend)
        return begin is not None and self.description.startswith(begin)

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.description}, {console.size(self.total_bytes)} of memory, "
            f"{console.size(self.free_bytes)} of it free"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceLayers:
    """The devices of a rank, and how many layers of its stage they compute."""

    names: tuple[str, ...] = ()
    n_layers: int = ALL_LAYERS  # the last ones, the output being one more


NO_DEVICES = DeviceLayers()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceBytes:
    """What a rank has in memory of devices."""

    weights: int = 0
    cache: int = 0
    compute: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.compute


def found() -> tuple[Device, ...]:
    """Those of this process: GPUs, or where there is none, the processor's own.

    The backends must have been loaded: see cpu.variants.load.
    """
    lib = abi.load()
    devices = []
    for index in range(lib.ggml_backend_dev_count()):
        handle = lib.ggml_backend_dev_get(index)
        kind = lib.ggml_backend_dev_type(handle)
        if kind not in (GPU, INTEGRATED_GPU):
            continue
        free, total = c_size_t(), c_size_t()
        lib.ggml_backend_dev_memory(handle, byref(free), byref(total))
        devices.append(
            Device(
                name=decoded(lib.ggml_backend_dev_name(handle)),
                description=decoded(lib.ggml_backend_dev_description(handle)),
                backend=decoded(
                    lib.ggml_backend_reg_name(lib.ggml_backend_dev_backend_reg(handle))
                ),
                free_bytes=free.value,
                total_bytes=total.value,
                is_integrated=kind == INTEGRATED_GPU,
            )
        )
    return tuple(devices)


def preferred(devices: Sequence[Device]) -> tuple[Device, ...]:
    """Those that are used if nobody says which: not the processor's own beside others."""
    own = [each for each in devices if not each.is_integrated]
    return tuple(own or devices)
