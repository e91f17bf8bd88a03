"""The kinds of jobs: for each configuration, what the head does with the loaded pipeline.

A new kind is a subclass of JobConfig and a row of JOBS.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipeinfer_cli import console
from pipeinfer_cli.commands.batch.config import BatchConfig
from pipeinfer_cli.commands.bench.config import BenchGroup
from pipeinfer_cli.commands.calibrate.config import CalibrateJob
from pipeinfer_cli.commands.chat.config import ChatConfig
from pipeinfer_cli.commands.generate_config import GenerateConfig
from pipeinfer_cli.commands.serve.config import ServeConfig
from pipeinfer_cli.runtime.config import JobConfig

if TYPE_CHECKING:
    from mpi4py.MPI import Comm  # noqa: TID251 (only its name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A kind of job. Its module is imported on the head alone, when the work begins."""

    config: type[JobConfig]
    module: str  # in pipeinfer_cli.commands
    prepare: str  # there: called with the configuration and the plan, it gives a pipeline.Work
    is_interactive: bool = False  # rank 0 asks the process that has started it for lines

    def load(self) -> Any:
        """Imports what `prepare` names."""
        return getattr(import_module(f"pipeinfer_cli.commands.{self.module}"), self.prepare)


JOBS = (
    Job(config=GenerateConfig, module="generate", prepare="prepare_generate"),
    Job(config=BatchConfig, module="batch.work", prepare="BatchWork"),
    Job(config=ChatConfig, module="chat.work", prepare="ChatWork", is_interactive=True),
    Job(config=ServeConfig, module="serve.work", prepare="ServeWork"),
    Job(config=BenchGroup, module="bench.group", prepare="GroupWork"),
    Job(config=CalibrateJob, module="calibrate.measure", prepare="CalibrateWork"),
)
_BY_CONFIG = {each.config: each for each in JOBS}


def job_of(config: JobConfig) -> Job:
    """The kind of job that the configuration describes."""
    return _BY_CONFIG[type(config)]


def run(config: JobConfig, comm: Comm | None) -> int:
    """Carries out the job on this rank; see pipeline.run."""
    from pipeinfer_cli.commands import notes  # not in the parent of local ranks
    from pipeinfer_cli.runtime import pipeline

    def prepare(plan: pipeline.Plan) -> pipeline.Work:
        work: pipeline.Work = job_of(config).load()(replace(config, n_ctx=plan.n_ctx), plan)
        # after that, so that an error is the only line
        for note in notes.notes(config, plan):
            console.note(note)
        return work

    return pipeline.run(config, comm, prepare)
