"""`pipeinfer bench --calibrate`: a profile of each pipeline that was asked for."""

from __future__ import annotations

import os

from pipeinfer_cli.commands import start
from pipeinfer_cli.commands.calibrate.config import CalibrateConfig
from pipeinfer_cli.files import check_writable
from pipeinfer_cli.launch import environment, mpi


def calibrate(config: CalibrateConfig) -> int:
    """Measures, one pipeline after the other, and returns the exit code. On every rank."""
    launch_env = environment.detect(os.environ)
    if not launch_env.alone:
        mpi.start()  # first: what only rank 0 finds wrong then ends all ranks
    if config.save_to is not None and launch_env.rank == 0:
        check_writable("--calibrate-to", config.save_to)
    for job in config.jobs():
        if (code := start.start(job)) != 0:
            return code
    return 0
