"""What is compiled for 64-bit ARM: our kernels and the unpatched ones."""

from __future__ import annotations

import sys
from pathlib import Path

from emulated import check

ROOT = Path(__file__).parents[2]
TOOLCHAIN = ROOT / "native" / "cmake" / "aarch64.cmake"
KINDS = {  # what the compiler may use
    "neon": "armv8-a",
    "dotprod": "armv8.2-a+dotprod",
    "i8mm": "armv8.6-a+dotprod+fp16+i8mm+nosve",
    "sve": "armv8.6-a+dotprod+fp16+i8mm+sve",
}
COMPARED = ("i8mm", "sve")  # with unpatched kernels: one column is computed as for the others


def options(kind: str) -> list[str]:
    """CMake's, for a kind."""
    return [
        f"-DCMAKE_TOOLCHAIN_FILE={TOOLCHAIN}",
        "-DGGML_NATIVE=OFF",
        f"-DGGML_CPU_ARM_ARCH={KINDS[kind]}",
    ]


def libraries(folder: Path, kind: str, *, is_patched: bool) -> Path:
    """Where the libraries of a kind are, or will be."""
    return folder / f"{'ours' if is_patched else 'unpatched'}-{kind}" / "bin"


def build(folder: Path, kind: str, *, is_patched: bool) -> None:
    """ggml's CPU backend, with these flags only."""
    place = libraries(folder, kind, is_patched=is_patched).parent
    programs = Path(sys.executable).parent
    what = "PIPEINFER_KERNELS" if is_patched else "PIPEINFER_REFERENCE"
    cmake = [str(programs / "cmake")]
    check([
        *cmake, "-S", str(ROOT), "-B", str(place), "-G", "Ninja",
        f"-DCMAKE_MAKE_PROGRAM={programs / 'ninja'}", f"-DPython_EXECUTABLE={sys.executable}",
        f"-D{what}=ON", *options(kind),
    ])  # fmt: skip
    check([*cmake, "--build", str(place), "--target", "ggml-cpu"])
