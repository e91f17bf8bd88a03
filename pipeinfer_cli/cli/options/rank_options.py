"""The command line's options for what ranks compute with: threads, kernels, devices, memory."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pipeinfer_cli import console
from pipeinfer_cli.cli.parsing.values import integer, integers
from pipeinfer_cli.engine.cpu import variants
from pipeinfer_cli.runtime import config

THREADS = typer.Option(
    "-t",
    "--threads",
    parser=integers,
    metavar="N|N,N,...",
    help="Threads per rank, or a list of them by rank; default: share of cores.",
)
Threads = Annotated[Any, THREADS]
ReportBinding = Annotated[
    bool,
    typer.Option(
        "--report-binding", help="Print each rank's host, cores, threads and layers to stderr."
    ),
]
Bind = Annotated[
    str,
    typer.Option(
        "--bind",
        metavar="on|off|auto",
        help="Bind compute threads to cores; auto: if ranks get NUMA nodes of their own.",
        hidden=True,
    ),
]
CPU_VARIANT = typer.Option(
    variants.OPTION,
    parser=variants.parse,
    metavar="NAME|NAME,NAME,...",
    help="Instructions to compute with (avx2, sse42: see doctor), or a list of them by rank; "
    "default: each processor's best.",
)
CpuVariant = Annotated[Any, CPU_VARIANT]
GPU_LAYERS = typer.Option(
    "-ngl",
    "--gpu-layers",
    parser=config.parse_layers,
    metavar="N|N,N,...",
    help="Layers of each stage that devices compute, or a list by rank (0,99,99); default: all, "
    "if there are any.",
)
GpuLayers = Annotated[Any, GPU_LAYERS]
DEVICE = typer.Option(
    "-dev",
    "--device",
    parser=config.parse_devices,
    metavar="NAME|NAME,NAME,...",
    help="Device to compute with (CUDA0, CUDA0+CUDA1, none: see --list-devices), or a list by "
    "rank; default: ranks of a host share its devices.",
)
Device = Annotated[Any, DEVICE]


def print_devices(asked: bool) -> None:
    """What --list-devices prints, before all else is looked at."""
    if not asked:
        return
    from pipeinfer_cli.engine.cpu import devices as found
    from pipeinfer_cli.engine.llama_cpp import capture_log

    capture_log()
    variants.load()
    devices = found.found()
    for each in devices:
        print(each)
    if not devices:
        console.note("no device that layers can be given to: see pipeinfer doctor")
    raise typer.Exit


ListDevices = Annotated[
    bool,
    typer.Option(
        "--list-devices",
        is_eager=True,
        callback=print_devices,
        help="Print the devices of this host that layers can be given to, and end.",
    ),
]
EXACT_SHAPE = typer.Option(
    "--exact-shape",
    parser=integer,
    metavar="N",
    help="Compute N tokens at a time (at most 32), always: the text does not depend on the "
    "strategy, whatever the kernels are; default: 16 with devices, else 0 (off).",
)
ExactShape = Annotated[int | None, EXACT_SHAPE]
NoMmap = Annotated[
    bool,
    typer.Option("--no-mmap", help="Read each rank's weights into memory; do not map the file."),
]
Mlock = Annotated[
    bool, typer.Option("--mlock", help="As --no-mmap, and keep memory from being paged out.")
]
Numa = Annotated[
    str,
    typer.Option(
        "--numa",
        metavar="|".join(config.NUMA_MODES),
        help="Spread a rank's memory over its NUMA nodes, keep it in one, or leave all to numactl.",
    ),
]
