"""What the build recorded in lib/build.json: upstream pin, patches, compiler and options."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pipeinfer_cli
from pipeinfer_cli.errors import UserError


def _lib_dir() -> Path:
    """The package's lib/; an editable install has two folders: the sources', and one with lib/."""
    folders = [Path(folder) / "lib" for folder in pipeinfer_cli.__path__]
    return next((each for each in folders if (each / "build.json").exists()), folders[0])


LIB_DIR = _lib_dir()
# What native/cmake/build_json.cmake records besides backends.
CPU_OPTIONS = {"NATIVE", "OPENMP", "LLAMAFILE", "SSE42", "AVX", "AVX2", "AVX512", "FMA", "F16C"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildInfo:
    """build.json, checked to be whole."""

    upstream_package: str
    upstream_version: str
    patches: tuple[str, ...]  # names, in the order in which they are applied
    compiler: str
    build_type: str
    ggml_options: dict[str, str]
    commit: str = "unknown"  # of this package; of its git checkout, if it was built in one
    number: int = 0  # commits up to it

    @property
    def other_backends(self) -> tuple[str, ...]:
        """Backends of ggml besides the CPU: BLAS, CUDA, ..."""
        names = (key.removeprefix("GGML_") for key, on in self.ggml_options.items() if on == "ON")
        return tuple(
            name for name in names if not name.startswith("CPU") and name not in CPU_OPTIONS
        )


def load(lib_dir: Path | None = None) -> BuildInfo:
    """Reads build.json; UserError if this is not an installed, whole package."""
    path = (LIB_DIR if lib_dir is None else lib_dir) / "build.json"
    try:
        return _parse(json.loads(path.read_text()))
    except OSError as error:
        raise UserError(
            f"pipeinfer's native library is not installed ({path}: {error.strerror}): "
            "install the package with pip install"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error!r}): install the package again") from None


def _parse(data: dict[str, Any]) -> BuildInfo:
    return BuildInfo(
        upstream_package=data["upstream"]["package"],
        upstream_version=data["upstream"]["version"],
        patches=tuple(patch["name"] for patch in data["patches"]),
        compiler=data["compiler"],
        build_type=data["build_type"],
        ggml_options={key: str(value) for key, value in data["ggml_options"].items()},
        commit=data.get("commit", "unknown"),
        number=int(data.get("number", 0)),
    )
