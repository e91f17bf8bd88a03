"""What is compiled for 64-bit ARM: our kernels and the unpatched ones, and the whole package."""

from __future__ import annotations

import shutil
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
# Of the package, by the kind that has the same instructions.
VARIANTS = {"neon": "armv8.0_1", "dotprod": "armv8.2_1", "sve": "armv8.6_1"}


def options(kind: str) -> list[str]:
    """CMake's, for a kind."""
    return ["-DGGML_NATIVE=OFF", f"-DGGML_CPU_ARM_ARCH={KINDS[kind]}"]


def libraries(folder: Path, kind: str, *, is_patched: bool) -> Path:
    """Where the libraries of a kind are, or will be."""
    return folder / f"{'ours' if is_patched else 'unpatched'}-{kind}" / "bin"


def build(folder: Path, kind: str, *, is_patched: bool) -> None:
    """ggml's CPU backend, with these flags only."""
    place = libraries(folder, kind, is_patched=is_patched).parent
    what = "PIPEINFER_KERNELS" if is_patched else "PIPEINFER_REFERENCE"
    _cmake(place, f"-D{what}=ON", *options(kind), target="ggml-cpu")


def build_package(folder: Path, site: Path) -> None:
    """What pip would install, with a few CPU variants, in a folder of Python packages."""
    place = folder / "package"
    _cmake(place, f"-DPIPEINFER_CPU_VARIANTS={','.join(VARIANTS.values())}")
    check([*_program("cmake"), "--install", str(place), "--prefix", str(site)])
    modules = ROOT / "pipeinfer_cli"
    shutil.copytree(modules, site / modules.name, dirs_exist_ok=True)


def build_reference(folder: Path, kind: str) -> Path:
    """The unpatched libllama with the CPU backend of a kind, in a folder of their own."""
    place = folder / "unpatched"
    _cmake(place, "-DPIPEINFER_REFERENCE=ON", *options(next(iter(KINDS))), target="reference")
    build(folder, kind, is_patched=False)
    target = reference(folder, kind)
    shutil.copytree(place / "bin", target, dirs_exist_ok=True)
    shutil.copy2(libraries(folder, kind, is_patched=False) / "libggml-cpu.so", target)
    return target


def reference(folder: Path, kind: str) -> Path:
    """Where it is."""
    return folder / f"reference-{kind}"


def _program(name: str) -> list[str]:
    """One of the environment's."""
    return [str(Path(sys.executable).with_name(name))]


def _cmake(place: Path, *more: str, target: str = "all") -> None:
    check([
        *_program("cmake"), "-S", str(ROOT), "-B", str(place), "-G", "Ninja",
        f"-DCMAKE_TOOLCHAIN_FILE={TOOLCHAIN}", f"-DPython_EXECUTABLE={sys.executable}",
        f"-DCMAKE_MAKE_PROGRAM={_program('ninja')[0]}", *more,
    ])  # fmt: skip
    check([*_program("cmake"), "--build", str(place), "--target", target])
