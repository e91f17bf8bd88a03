"""Named models: resolving what `-m` and `-md` name, and what is in the cache."""

from __future__ import annotations

import os
from pathlib import Path

from pipeinfer_cli.checks import did_you_mean
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.files import expanded, is_folder, is_there, open_file
from pipeinfer_cli.models import catalogue as catalogue_
from pipeinfer_cli.models import shards
from pipeinfer_cli.models.cache import cached_path
from pipeinfer_cli.models.catalogue import (
    HUB_PREFIX,
    NAME,
    Catalogue,
    NamedModel,
    check_name,
)

HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
LISTED = "pipeinfer models list has the names"
AUTO = "auto"  # -md: the draft that the catalogue names for the target


def catalogue() -> Catalogue:
    """The models and pairs that we ship, and the user's own."""
    return catalogue_.load(catalogue_.shipped_file(), catalogue_.user_file(os.environ))


def find(name: str) -> NamedModel:
    """The catalogue's entry; UserError with the known names if there is none."""
    known = catalogue().models
    if check_name(name) not in known:
        raise UserError(f"there is no model named {name!r}{did_you_mean(name, known)}: {LISTED}")
    return known[name]


def resolve(name_or_path: str) -> Path:
    """The GGUF that `-m` means: a file, or a named model, which is pulled if it is not cached.

    It may also be a file on the Hugging Face hub (see download_hub), or what `shards` knows: a
    folder, a path with {rank} or {stage}, or a list of paths.
    Raises UserError for a path that does not exist and a name that nobody knows, RunError if a pull
    fails.
    """
    if "://" in name_or_path:
        raise _is_url(name_or_path)
    if name_or_path.startswith(HUB_PREFIX) and not is_there(name_or_path):
        from pipeinfer_cli.models import download_hub

        return download_hub.fetch_named(name_or_path)
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
            f"the model {name_or_path!r} is neither a file nor a known name"
            f"{did_you_mean(name_or_path, known)}: "
            f"give a GGUF path, or a name: {LISTED}"
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


def _is_url(url: str) -> UserError:
    place = url.partition("://")[2].partition("?")[0].split("/")
    if place[0] in HUB_HOSTS and len(place) > 2:
        file = f"/{place[-1]}" if place[-1].endswith(".gguf") else ""
        return UserError(
            f"-m {url!r} is a URL: give {HUB_PREFIX}{'/'.join(place[1:3])}{file} instead"
        )
    return UserError(
        f"-m {url!r} is a URL: fetch the file and give its path, or name it in {_user_file()} with "
        'a source of the type "url"'
    )


def _user_file() -> str:
    return str(catalogue_.user_file(os.environ) or "models.toml")


def _check_file(path: Path) -> Path:
    """What can be said without reading the file; whether it is a GGUF, the loader says."""
    try:
        with open_file(path):
            return path.absolute()
    except OSError as error:
        raise UserError(
            f"cannot read the model {str(path)!r}: {error.strerror}{_neighbour(path)}: "
            "check -m/--model"
        ) from None


def _neighbour(path: Path) -> str:
    """A guess at a file that is there."""
    try:
        return did_you_mean(str(path), map(str, path.parent.glob("*.gguf")))
    except OSError:
        return ""
