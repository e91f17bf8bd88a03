"""What `pipeinfer bench --calibrate` was asked to measure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TypeVar

from pipeinfer_cli.checks import check_count
from pipeinfer_cli.commands.bench.config import BenchConfig
from pipeinfer_cli.commands.bench.outputs import NO_OUTPUTS
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.runtime.config import JobConfig
from pipeinfer_cli.scheduler.policy import DraftConfig

AnyJob = TypeVar("AnyJob", bound="CalibrateJob")


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateJob(JobConfig):
    """One pipeline to measure."""

    draft_model: str | None = None
    repetitions: int
    save_to: str | None = None  # a profile's file, besides the cache

    def __post_init__(self) -> None:
        JobConfig.__post_init__(self)  # super() does not know a class with slots
        check_count("-r/--repetitions", self.repetitions)

    @property
    def uses_draft_model(self) -> bool:
        """Whether the head's cores are a draft model's."""
        return self.draft_model is not None

    @property
    def drafts(self) -> Sequence[DraftConfig]:
        """Its runs are chains, one after the other."""
        return []

    def resolved(self: AnyJob) -> AnyJob:
        """The same with the models' files. Raises UserError."""
        from pipeinfer_cli.models.resolve import file_of

        return JobConfig.resolved(replace(self, draft_model=file_of(self.draft_model)))


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateConfig:
    """The command line: what of a bench's lists matters here. Raises UserError."""

    bench: BenchConfig
    save_to: Path | None = None

    def __post_init__(self) -> None:
        bench = self.bench
        if bench.outputs != NO_OUTPUTS:
            raise UserError(
                "--plot, --trace and --record-acceptance cannot be combined with --calibrate: "
                "leave them out"
            )
        for option, values in (
            ("--emulate", bench.emulate),
            ("--synth-acceptance", bench.synth_acceptance),
        ):
            if values != (None,):
                raise UserError(
                    f"{option} {values[0]} cannot be combined with --calibrate: leave it out"
                )
        if self.save_to is not None:
            if len(list(self.jobs())) > 1:
                raise UserError(
                    f"--calibrate-to {str(self.save_to)!r}: one file for several pipelines: give "
                    "one model, draft model, number of ranks and of threads"
                )
            if self.save_to.suffix != ".toml":
                raise UserError(
                    f"--calibrate-to {str(self.save_to)!r}: give a name that ends with .toml"
                )

    def jobs(self) -> Iterator[CalibrateJob]:
        """One for each pipeline that has to be loaded."""
        bench = self.bench
        for model, ranks, threads, draft_model in product(
            bench.models, bench.ranks, bench.threads, bench.draft_models or (None,)
        ):
            yield CalibrateJob(
                model=model,
                ranks=ranks,
                threads=threads,
                draft_model=draft_model,
                repetitions=bench.repetitions,
                save_to=None if self.save_to is None else str(self.save_to.absolute()),
                **bench.job,
            )
