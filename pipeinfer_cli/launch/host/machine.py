"""The host, processor and software versions that a bench reports."""

from __future__ import annotations

import socket
from importlib.metadata import PackageNotFoundError, version

from pipeinfer_cli.engine import build_info
from pipeinfer_cli.engine.cpu import variants
from pipeinfer_cli.launch.host import mpi_choice


def describe() -> dict[str, str | int]:
    """Of this host and this build, by column name."""
    build = build_info.load()
    backends = sorted(
        name.removeprefix("GGML_")
        for name, value in build.ggml_options.items()
        if name in ("GGML_CUDA", "GGML_HIP", "GGML_VULKAN", "GGML_METAL", "GGML_SYCL", "GGML_BLAS")
        and value.upper() in ("ON", "1", "TRUE")
    )
    return {
        "build_commit": build.commit,
        "build_number": build.number,
        "cpu_info": variants.processor(),
        "gpu_info": "",
        "backends": ",".join(backends) or "CPU",
        "pipeinfer_version": _version(),
        "llama_cpp": f"{build.upstream_package} {build.upstream_version}",
        "mpi": mpi_choice.in_words(),
        "host": socket.gethostname(),
    }


def _version() -> str:
    try:
        return version("pipeinfer")
    except PackageNotFoundError:  # a source tree
        return "unknown"
