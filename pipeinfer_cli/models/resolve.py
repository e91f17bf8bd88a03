"""Named models: resolving what `-m` and `-md` name, and what is in the cache."""

from __future__ import annotations

import os
from pathlib import Path

from pipeinfer_cli.errors import UserError
from pipeinfer_cli.files import expanded, is_folder, is_there, open_file
from pipeinfer_cli.models import catalogue as catalogue_
from pipeinfer_cli.models import shards
from pipeinfer_cli.models.cache import cached_path
from pipeinfer_cli.models.catalogue import (
    NAME,
    Catalogue,
    NamedModel,
    check_name,
)

AUTO = "auto"  # -md: the draft that the catalogue names for the target


def catalogue() -> Catalogue:
    """The models and pairs that we ship, and the user's own."""
    return catalogue_.load(catalogue_.shipped_file(), catalogue_.user_file(os.environ))


def find(name: str) -> NamedModel:
    """The catalogue's entry; UserError with the known names if there is none."""
    known = catalogue().models
    if check_name(name) not in known:
        raise UserError(f"there is no model named {name!r}: known names are {', '.join(known)}")
    return known[name]


def resolve(name_or_path: str) -> Path:
    """The GGUF that `-m` means: a file, or a named model, which is pulled if it is not cached.

    It may also be what `shards` knows: a folder, a path with {rank} or {stage}, or a list of paths.
    Raises UserError for a path that does not exist and a name that nobody knows, RunError if a pull
    fails.
    """
    path = expanded(name_or_path)
    if by_rank := shards.listed(path):
        if not is_folder(by_rank[0]):
            _check_file(by_rank[0])
        return Path(",".join(map(str, by_rank)))
    if shards.is_set(path):
        shards.locate(path)  # says what is wrong with it
        return path.absolute()
    if is_there(path) or _looks_like_path(name_or_path):
        return _check_file(path)
    known = catalogue().models
    if not NAME.fullmatch(name_or_path) or name_or_path not in known:
        raise UserError(
            f"the model {name_or_path!r} is neither a file nor a known name: "
            f"give a GGUF path or one of {', '.join(known)}"
        )
    model = known[name_or_path]
    if cached := cached_path(model):
        return cached
    from pipeinfer_cli.models import download

    return download.pull(model)


def file_of(name_or_path: str | None) -> str | None:
    """As resolve, for a model that may not be asked for."""
    return str(resolve(name_or_path)) if name_or_path else None


def _looks_like_path(text: str) -> bool:
    return "/" in text or text.endswith(".gguf") or text.startswith("~")


def _check_file(path: Path) -> Path:
    """What can be said without reading the file; whether it is a GGUF, the loader says."""
    try:
        with open_file(path):
            return path.absolute()
    except OSError as error:
        raise UserError(
            f"cannot read the model {str(path)!r}: {error.strerror}: check -m/--model"
        ) from None
