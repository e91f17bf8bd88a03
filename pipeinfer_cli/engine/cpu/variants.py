"""The instructions that ggml computes with: variants of its CPU backend; a process loads one.

Each is a library of its own, named as in ggml, for the processors that have its instructions. A
build with flags of the user's own has one backend instead, which is linked.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from pipeinfer_cli.engine import abi, build_info
from pipeinfer_cli.engine.abi import decoded
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.log import LOG

PREFIX = "libggml-cpu-"
NOT_A_BACKEND = ("libggml-base", "libggml-cpu")  # beginnings of names
SPELLINGS = {"avx2": "haswell"}
CPUINFO = Path("/proc/cpuinfo")
OPTION = "--cpu-variant"


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuCode:
    """What the sums of a process depend on: with equal ones, processes compute equal bits."""

    variant: str
    instructions: str = ""  # that ggml was compiled for, in its own words
    build: str = ""  # of what source, by which compiler
    math: str = ""  # whose exp, sin and others
    usable: tuple[str, ...] = field(default=(), compare=False)  # variants, the best one first


def parse(text: str) -> tuple[str, ...]:
    """`haswell`, or a name per rank: `zen4,avx2`. UserError unless they can be names."""
    names = tuple(SPELLINGS.get(name, name) for name in text.lower().split(","))
    if not all(re.fullmatch(r"[\w.]+", name) for name in names):
        raise UserError(f"{OPTION} {text!r}: give a name as haswell, or one per rank: zen4,haswell")
    return names


def built(lib_dir: Path) -> tuple[str, ...]:
    """The variants of a folder of libraries; none if its CPU backend is linked."""
    files = sorted(lib_dir.glob(f"{PREFIX}*.so"))
    return tuple(path.stem.removeprefix(PREFIX) for path in files)


@cache
def usable() -> tuple[str, ...]:
    """Those that this processor can run, the best one first, as ggml has it."""
    folder = abi.lib_dir()
    if not (names := built(folder)):
        return (_linked(folder),)
    scores = {name: _score(_file(folder, name)) for name in names}
    return tuple(sorted((name for name in names if scores[name] > 0), key=lambda n: -scores[n]))


def _score(path: Path) -> int:
    """What ggml's own code says of it: 0 where an instruction is missing."""
    try:
        score = getattr(ctypes.CDLL(str(path)), "ggml_backend_score", None)
        return int(score()) if score else 1  # it does not say: for any processor
    except OSError as error:
        LOG.warning("%s is left out: %s", path, error)
        return 0


def _file(folder: Path, name: str) -> Path:
    return folder / f"{PREFIX}{name}.so"


def _linked(folder: Path) -> str:
    """What a backend with flags of the user's own is called."""
    return "native" if build_info.load(folder).ggml_options.get("GGML_NATIVE") == "ON" else "custom"


class _Loaded:
    """The variant of this process: one, from the first model to its end."""

    name = ""


def load(asked: str | None = None) -> CpuCode:
    """Loads the backends: of the CPU the one that was asked for, or the best one that it can run.

    Must come before the first model. UserError if this processor cannot run it.
    """
    lib = abi.load()
    names = usable()
    if not names:
        raise UserError(
            f"this processor ({processor()}) has none of the instructions that this build needs "
            f"({' or '.join(built(abi.lib_dir()))}): build pipeinfer on it, with -DGGML_NATIVE=ON"
        )
    if asked is not None and asked not in names:
        others = [name for name in built(abi.lib_dir()) if name not in names]
        lacking = f"; not {', '.join(others)}" if others else ""
        having = ", ".join(names)
        raise UserError(f"{OPTION} {asked}: this processor and build have {having}{lacking}")
    name = asked or _Loaded.name or names[0]
    _load_once(name)
    return CpuCode(
        variant=name,
        instructions=decoded(lib.llama_print_system_info()),
        build=_build(),
        math=math_library(),
        usable=names,
    )


def _load_once(name: str) -> None:
    lib, folder = abi.load(), abi.lib_dir()
    if not _Loaded.name and lib.ggml_backend_reg_by_name(b"CPU"):
        _Loaded.name = usable()[0]  # linked, or llama.cpp has chosen it for a vocabulary
    if _Loaded.name:
        if _Loaded.name != name:
            raise UserError(f"{OPTION} {name}: this process computes with {_Loaded.name} already")
        return
    for path in sorted(folder.glob("libggml-*.so")):
        is_other = not path.name.startswith(NOT_A_BACKEND)
        if is_other and not lib.ggml_backend_load(os.fsencode(path)):
            LOG.warning("%s does not load: no driver, or no device of its kind", path)
    if not lib.ggml_backend_load(os.fsencode(_file(folder, name))):
        raise UserError(f"cannot load {_file(folder, name)}: install pipeinfer again")
    _Loaded.name = name


def _build() -> str:
    info = build_info.load(abi.lib_dir())
    return f"{info.upstream_version} with {len(info.patches)} patches, by {info.compiler}"


def processor() -> str:
    """Its name, as the kernel has it."""
    return _cpuinfo("model name") or os.uname().machine


def math_library() -> str:
    """The C library, whose functions are others on processors without FMA."""
    try:
        name = os.confstr("CS_GNU_LIBC_VERSION") or "libc"
    except ValueError:
        name = "libc"
    flags = _cpuinfo("flags").split()
    return name if not flags or {"fma", "avx2"}.issubset(flags) else f"{name} without FMA"


def _cpuinfo(key: str) -> str:
    """Of the first processor; empty if the kernel does not say."""
    try:
        text = CPUINFO.read_text(errors="replace")
    except OSError:
        return ""
    found = re.search(rf"^{key}\s*: (.*)$", text, re.MULTILINE)
    return found[1].strip() if found else ""


def best_common(codes: Sequence[CpuCode]) -> str | None:
    """The best variant that all of them can use."""
    return next((n for n in codes[0].usable if all(n in each.usable for each in codes)), None)
