"""A calibration and its key: the same model on the same hosts, threads and MPI."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeinfer_cli.cluster import profile_toml
from pipeinfer_cli.cluster.profile import Profile
from pipeinfer_cli.engine import build_info
from pipeinfer_cli.errors import PipeinferError, RunError, UserError
from pipeinfer_cli.files import replaced
from pipeinfer_cli.launch.environment import RankResources
from pipeinfer_cli.launch.host import mpi_choice
from pipeinfer_cli.models.catalogue import cache_dir
from pipeinfer_cli.models.layer_split import LayerRange
from pipeinfer_cli.models.shards import digest_of, file_digest

FOLDER = "calibration"

FORMAT = 1  # of the table; another one is not read


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What has to be the same, so that a calibration says something."""

    model: str  # see file_digest; with adapters, another one
    all_resources: tuple[RankResources, ...]  # by rank
    mpi: str
    llama_cpp: str
    devices: tuple[str, ...] = ()  # by rank; none: processors compute, runs as they are

    @classmethod
    def of(
        cls,
        model_path: Path,
        all_resources: Sequence[RankResources],
        adapters: str = "",
        devices: Sequence[str] = (),
    ) -> Identity:
        """Of a job with this package, on these ranks; `adapters` as adapters_digest."""
        build = build_info.load()
        model = file_digest(model_path)
        return cls(
            model=digest_of(f"{model} {adapters}") if adapters else model,
            all_resources=tuple(all_resources),
            mpi=mpi_choice.in_words(),
            llama_cpp=f"{build.upstream_package} {build.upstream_version}",
            devices=tuple(devices),
        )

    @property
    def digest(self) -> str:
        """Names it among others."""
        return digest_of(repr(sorted(self.fields().items())))

    def fields(self) -> dict[str, Any]:
        """As a table's entries."""
        return {
            "model_digest": self.model,
            "hosts": [resources.host for resources in self.all_resources],
            "threads": [resources.n_threads for resources in self.all_resources],
            "cpu_variants": [each.cpu.variant if each.cpu else "" for each in self.all_resources],
            "mpi": self.mpi,
            "llama_cpp": self.llama_cpp,
            **({"devices": list(self.devices)} if self.devices else {}),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What was measured, and with which placement of the layers."""

    profile: Profile  # of the stages in their order; ranks without layers have none
    layers: tuple[LayerRange, ...]  # by rank
    output_ms: float  # of the last stage's time for one token: the output head
    draft_model: str = ""  # the digest of the draft model that profile.draft_ms is of; "": n-grams
    draft_threads: int = 1

    def __post_init__(self) -> None:
        n_stages = sum(len(each) > 0 for each in self.layers)
        if n_stages != self.profile.n_stages:
            raise ValueError(f"{self.profile.n_stages} stages, but layers for {n_stages}")
        if not 0 <= self.output_ms < self.profile.stages[-1].ms(1):
            raise ValueError(f"output_ms {self.output_ms:g} is more than the last stage's time")

    @property
    def digest(self) -> str:
        """Tells it from others of the same identity: what a later one replaces has the same."""
        return digest_of(repr((self.layers, self.draft_model, self.draft_threads)))

    def fields(self) -> dict[str, Any]:
        """What the profile does not say, as a table's entries."""
        return {
            "format": FORMAT,
            "layers": [[each.first, each.last] for each in self.layers],
            "output_ms": self.output_ms,
            "draft_model_digest": self.draft_model,
            "draft_threads": self.draft_threads,
        }

    @classmethod
    def from_fields(cls, profile: Profile, fields: Mapping[str, Any]) -> Calibration:
        """Inverse of `fields`. ValueError, KeyError or TypeError if they are invalid."""
        if fields["format"] != FORMAT:
            raise ValueError(f"format {fields['format']}, not {FORMAT}")
        return cls(
            profile=profile,
            layers=tuple(LayerRange(int(first), int(last)) for first, last in fields["layers"]),
            output_ms=float(fields["output_ms"]),
            draft_model=str(fields["draft_model_digest"]),
            draft_threads=int(fields["draft_threads"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLookup:
    """What the cache has for an identity."""

    calibrations: tuple[tuple[Path, Calibration], ...] = ()  # the latest first
    problems: tuple[str, ...] = ()  # of files that cannot be used


def folder_of(identity: Identity) -> Path:
    """Where its calibrations are; it may not exist yet."""
    return cache_dir(os.environ) / FOLDER / identity.digest


def save(calibration: Calibration, identity: Identity, name: str) -> Path:
    """Puts it into the cache, over an earlier one of the same placement. RunError."""
    folder = folder_of(identity)
    path = folder / f"{name}-{calibration.digest[:8]}.toml"
    try:
        with replaced(path) as unfinished:
            write(calibration, identity, unfinished)
    except OSError as error:
        raise RunError(f"cannot keep a calibration in {str(folder)!r}: {error.strerror}") from None
    return path


def write(calibration: Calibration, identity: Identity, path: Path) -> None:
    """Writes a profile, with the rest as its table. RunError."""
    about = {**calibration.fields(), **identity.fields()}
    profile_toml.save(calibration.profile, path, about)


def find(identity: Identity) -> CacheLookup:
    """All that can be used; never an error."""
    calibrations, problems = [], []
    try:
        folder = folder_of(identity)
    except UserError:
        return CacheLookup()  # there is no cache
    for path in sorted(folder.glob("*.toml"), key=_age_s):
        try:
            calibrations.append((path, _read(path, identity)))
        except (PipeinferError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            problems.append(f"calibration {path} is not used: {_line(error)}")
    return CacheLookup(calibrations=tuple(calibrations), problems=tuple(problems))


def _age_s(path: Path) -> float:
    try:
        return -path.stat().st_mtime
    except OSError:  # it has just gone
        return 0.0


def _read(path: Path, identity: Identity) -> Calibration:
    fields: dict[str, Any] = profile_toml.read_about(path)
    for key, value in identity.fields().items():
        if fields[key] != value:
            raise ValueError(f"{key} is {fields[key]}, not {value}")
    calibration = Calibration.from_fields(profile_toml.load(str(path)), fields)
    if len(calibration.layers) != len(identity.all_resources):
        raise ValueError(f"{len(calibration.layers)} ranks, not {len(identity.all_resources)}")
    return calibration


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, PipeinferError | ValueError) else f"missing or invalid: {text}"
