"""Ranks whose processor qemu emulates. The launcher is this machine's, and starts qemu; MPI and all
else of a rank is emulated.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from emulated import CPUS, EMULATED, FOLDER, Emulated
from pipeinfer_cli.launch.environment import Launcher
from pipeinfer_cli.launch.host import mpi_choice
from small_models import convert, talking_llama
from support import run

N_CTX = 256
TIMEOUT_S = 600.0


def emulated(cpu: str, **more: str) -> dict[str, str]:
    """The environment of a process on this processor."""
    # qemu has no process_vm_readv, by which ranks of MPICH read each other's memory
    return {**os.environ, "QEMU_CPU": CPUS[cpu][1], "MPIR_CVAR_CH4_CMA_ENABLE": "0", **more}


def on_ranks(ranks: int, *program: str, cpu: str, machine: Emulated = EMULATED) -> str:
    """The stdout of the emulated Python on ranks."""
    launcher = Launcher.of(mpi_choice.choose())
    command = launcher.command(ranks, [str(machine.python), *program])
    done = run(command, timeout_s=TIMEOUT_S, env=emulated(cpu), cwd=FOLDER)  # no package is in it
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def check_command(folder: Path, cpu: str, variant: str, *, machine: Emulated = EMULATED) -> None:
    """`pipeinfer generate` uses this variant, and writes one text on one rank and two."""
    model = convert(talking_llama(folder / "command.gguf"), folder, "Q4_0")
    words = ["-m", str(model), "-n", "12", "-c", str(N_CTX), "-t", "1", "--format", "json"]
    command = ["-m", "pipeinfer_cli", "generate", *words]
    one, two = (
        json.loads(on_ranks(ranks, *command, "One day", cpu=cpu, machine=machine))["tokens"]
        for ranks in (1, 2)
    )
    assert len(one) == 12
    assert one == two
    plan = json.loads(on_ranks(2, *command, "--plan", cpu=cpu, machine=machine))
    assert [rank["cpu_variant"] for rank in plan["ranks"]] == [variant] * 2
