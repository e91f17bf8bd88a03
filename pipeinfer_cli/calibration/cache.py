"""Where calibrations are kept: a folder per identity, a profile per placement and draft model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeinfer_cli.calibration.entry import Calibration, Identity
from pipeinfer_cli.emulation import profile_file
from pipeinfer_cli.errors import PipeinferError, RunError, UserError
from pipeinfer_cli.models.catalogue import cache_dir

FOLDER = "calibration"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
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
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f".{path.name}.{os.getpid()}"
        write(calibration, identity, unfinished)
        unfinished.replace(path)  # nobody sees half of it
    except OSError as error:
        raise RunError(f"cannot keep a calibration in {str(folder)!r}: {error.strerror}") from None
    return path


def write(calibration: Calibration, identity: Identity, path: Path) -> None:
    """Writes a profile, with the rest as its table. RunError."""
    about = {**calibration.fields(), **identity.fields()}
    profile_file.save(calibration.profile, path, about)


def find(identity: Identity) -> Found:
    """All that can be used; never an error."""
    calibrations, problems = [], []
    try:
        folder = folder_of(identity)
    except UserError:
        return Found()  # there is no cache
    for path in sorted(folder.glob("*.toml"), key=_age_s):
        try:
            calibrations.append((path, _read(path, identity)))
        except (PipeinferError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            problems.append(f"calibration {path} is not used: {_line(error)}")
    return Found(calibrations=tuple(calibrations), problems=tuple(problems))


def _age_s(path: Path) -> float:
    try:
        return -path.stat().st_mtime
    except OSError:  # it has just gone
        return 0.0


def _read(path: Path, identity: Identity) -> Calibration:
    fields: dict[str, Any] = profile_file.read_about(path)
    for key, value in identity.fields().items():
        if fields[key] != value:
            raise ValueError(f"{key} is {fields[key]}, not {value}")
    calibration = Calibration.from_fields(profile_file.load(str(path)), fields)
    if len(calibration.layers) != len(identity.seats):
        raise ValueError(f"{len(calibration.layers)} ranks, not {len(identity.seats)}")
    return calibration


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, PipeinferError | ValueError) else f"it has no or a bad {text}"
