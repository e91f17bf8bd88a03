"""Named models: the catalogue models.toml, the cache, and resolving what `-m` names."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeinfer_cli.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGE_DIR = Path(__file__).parent
NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
HASH_CHARS = 12  # of the SHA-256, in the cached file's name


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelSource:
    """A GGUF that is a member of a wheel on the package index."""

    package: str
    version: str
    member: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedModel:
    """One entry of models.toml."""

    name: str
    description: str
    architecture: str
    layers: int
    license: str
    size_bytes: int
    sha256: str
    source: WheelSource

    @property
    def cache_path(self) -> Path:
        """Where the GGUF is once it was pulled; another version has another name."""
        return models_dir() / f"{self.name}-{self.sha256[:HASH_CHARS]}.gguf"

    @property
    def cached(self) -> bool:
        """True if the GGUF is in the cache, whole: it got its name after its hash was checked."""
        try:
            return self.cache_path.stat().st_size == self.size_bytes
        except OSError:
            return False


def models_dir() -> Path:
    """The folder of cached models; it may not exist yet."""
    return cache_dir(os.environ) / "models"


def cache_dir(env: Mapping[str, str]) -> Path:
    """PIPEINFER_CACHE, else pipeinfer's folder in XDG_CACHE_HOME or ~/.cache."""
    if chosen := env.get("PIPEINFER_CACHE"):
        return Path(chosen).expanduser().absolute()
    base = env.get("XDG_CACHE_HOME", "")
    # The XDG rules say to ignore a relative path.
    root = Path(base) if base.startswith("/") else Path("~/.cache").expanduser()
    return root / "pipeinfer"


def catalogue(path: Path | None = None) -> dict[str, NamedModel]:
    """The models of models.toml by name, in the file's order."""
    path = _catalogue_path() if path is None else path
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8")).get("models", {})
        return {name: _entry(name, fields) for name, fields in entries.items()}
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): reinstall pipeinfer") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} has an entry that cannot be used: {error}") from None


def _catalogue_path() -> Path:
    installed = PACKAGE_DIR / "models.toml"
    return installed if installed.exists() else PACKAGE_DIR.parent / "models.toml"


def _entry(name: str, fields: Mapping[str, Any]) -> NamedModel:
    check_name(name)
    source = dict(fields["source"])
    if (kind := source.pop("type")) != "wheel":
        raise ValueError(f"model {name} has the source type {kind!r}; known: wheel")
    rest = {key: value for key, value in fields.items() if key != "source"}
    return NamedModel(name=name, source=WheelSource(**source), **rest)


def check_name(name: str) -> str:
    """Returns the name if it can be one; UserError otherwise (a path, `..`, nothing)."""
    if not NAME.fullmatch(name) or ".." in name:
        raise UserError(
            f"{name!r} is no model name: names are small letters, digits, '.', '_' and '-'"
        )
    return name


def find(name: str) -> NamedModel:
    """The catalogue's entry; UserError with the known names if there is none."""
    known = catalogue()
    if check_name(name) not in known:
        raise UserError(f"there is no model named {name!r}: known names are {', '.join(known)}")
    return known[name]


def resolve(name_or_path: str) -> Path:
    """The GGUF that `-m` means: a file, or a named model, which is pulled if it is not cached.

    Raises UserError for a path that does not exist and a name that nobody knows, RunError if a
    pull fails.
    """
    path = Path(name_or_path).expanduser()
    if path.exists() or _looks_like_path(name_or_path):
        return _check_file(path)
    if not NAME.fullmatch(name_or_path) or name_or_path not in (known := catalogue()):
        names = ", ".join(catalogue())
        raise UserError(
            f"the model {name_or_path!r} is neither a file nor a known name: "
            f"give a GGUF path or one of {names}"
        )
    from pipeinfer_cli import pull

    return pull.pull(known[name_or_path])


def _looks_like_path(text: str) -> bool:
    return "/" in text or text.endswith(".gguf") or text.startswith("~")


def _check_file(path: Path) -> Path:
    """What can be said without reading the file; whether it is a GGUF, the loader says."""
    try:
        with path.open("rb"):
            return path.absolute()
    except IsADirectoryError:
        raise UserError(f"the model {str(path)!r} is a folder: give a GGUF file in it") from None
    except OSError as error:
        raise UserError(
            f"cannot read the model {str(path)!r}: {error.strerror}: check -m/--model"
        ) from None
