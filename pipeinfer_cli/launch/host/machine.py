"""The host, processor and software versions that a bench reports."""

from __future__ import annotations

import platform
import socket
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipeinfer_cli.engine import build_info
from pipeinfer_cli.launch.host import mpi_choice

CPUINFO = Path("/proc/cpuinfo")


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
        "cpu_info": cpu_name(),
        "gpu_info": "",
        "backends": ",".join(backends) or "CPU",
        "pipeinfer_version": _version(),
        "llama_cpp": f"{build.upstream_package} {build.upstream_version}",
        "mpi": mpi_choice.in_words(),
        "host": socket.gethostname(),
    }


def cpu_name(cpuinfo: Path = CPUINFO) -> str:
    """The processor's name as the kernel has it."""
    try:
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass  # no Linux
    return platform.processor() or platform.machine()


def _version() -> str:
    try:
        return version("pipeinfer")
    except PackageNotFoundError:  # a source tree
        return "unknown"
