"""Makes what tests/arm runs, in a folder; what is there already is not made again.

python tests/arm/prepare.py build/arm          # for make test-arm
python tests/arm/prepare.py build/arm WHEEL    # for make test-wheel-arm: only this, installed again
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import builds
import emulated


def main() -> int:
    folder = Path(sys.argv[1]).resolve()
    if todo := emulated.missing():
        print(f"tests on 64-bit ARM need a cross compiler and qemu: {todo}", file=sys.stderr)
        return 1
    machine = emulated.Emulated(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _step("a sysroot with Python", folder / "root.done", machine.make_root)
    if len(sys.argv) > 2:
        _step("the wheel", None, lambda: _install_wheel(folder, Path(sys.argv[2])))
        return 0
    _step("numpy there", folder / "venv.done", lambda: machine.make_venv(["numpy"]))
    for kind in builds.KINDS:
        for is_patched in (True, False) if kind in builds.COMPARED else (True,):
            _step(
                f"{'our' if is_patched else 'the unpatched'} kernels, {builds.KINDS[kind]}",
                None,
                lambda kind=kind, is_patched=is_patched: builds.build(
                    folder, kind, is_patched=is_patched
                ),
            )
    _step("what the package needs there", folder / "needs.done", lambda: _install_needs(machine))
    _step("the package", None, lambda: builds.build_package(folder, machine.site))
    for kind, variant in builds.VARIANTS.items():
        _step(
            f"the unpatched library, as {variant}",
            None,
            lambda kind=kind: builds.build_reference(folder, kind),
        )
    return 0


def _install_needs(machine: emulated.Emulated) -> None:
    machine.install_alike("pipeinfer", "llama-cpp-python")
    machine.copy("llama-cpp-python", "llama_cpp")  # the index has only its source


def _install_wheel(folder: Path, wheel: Path) -> None:
    """In an environment that has nothing else, with what it depends on; some is beside it."""
    machine = emulated.Emulated(folder, emulated.WITH_WHEEL.venv.name)
    shutil.rmtree(machine.venv, ignore_errors=True)
    machine.make_venv(["--find-links", str(wheel.parent), str(wheel)])


def _step(title: str, made: Path | None, make: Callable[[], None]) -> None:
    """A line with the time that it took. Steps that look for themselves have no file `made`."""
    if made is not None and made.exists():
        return
    begin_s = time.monotonic()
    make()
    if made is not None:
        made.touch()
    print(f"{title}: {time.monotonic() - begin_s:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
