"""The jobs: what the head does with the pipeline that a job has loaded."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pipeinfer_cli.commands.batch.work import BatchWork
from pipeinfer_cli.commands.bench.config import BenchGroup
from pipeinfer_cli.commands.bench.group import GroupWork
from pipeinfer_cli.commands.calibrate.config import CalibrateJob
from pipeinfer_cli.commands.calibrate.measure import CalibrateWork
from pipeinfer_cli.commands.chat.config import ChatConfig
from pipeinfer_cli.commands.generate import prepare_generate
from pipeinfer_cli.commands.generate_config import GenerateConfig
from pipeinfer_cli.runtime import pipeline
from pipeinfer_cli.runtime.config import JobConfig

if TYPE_CHECKING:
    from mpi4py.MPI import Comm  # noqa: TID251 (only its name)


def run(config: JobConfig, comm: Comm | None) -> int:
    """Carries out the job on this rank; see pipeline.run."""
    if isinstance(config, BenchGroup):
        return pipeline.run(config, comm, partial(GroupWork, config))
    if isinstance(config, CalibrateJob):
        return pipeline.run(config, comm, partial(CalibrateWork, config))
    assert isinstance(config, GenerateConfig)
    if isinstance(config, ChatConfig):
        from pipeinfer_cli.commands.chat.work import ChatWork  # which answers as we do

        return pipeline.run(config, comm, partial(ChatWork, config))
    if config.batch is not None:
        return pipeline.run(config, comm, partial(BatchWork, config, config.batch))
    return pipeline.run(config, comm, partial(prepare_generate, config))
