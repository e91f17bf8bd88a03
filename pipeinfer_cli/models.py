"""Named models: resolving what `-m` and `-md` name, and what is in the cache."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from pipeinfer_cli import catalogue as catalogue_
from pipeinfer_cli import shards
from pipeinfer_cli.catalogue import (
    NAME,
    Catalogue,
    HubSource,
    NamedModel,
    PathSource,
    check_name,
)
from pipeinfer_cli.config import GenerateConfig
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.files import expanded, is_folder, is_there

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


def cached_path(model: NamedModel) -> Path | None:
    """The model's GGUF (of several files, the first) if it is on this machine, whole."""
    if isinstance(model.source, PathSource):
        path = local_path(model.source)
        return path if is_there(path) else None
    if isinstance(model.source, HubSource):
        from pipeinfer_cli import pull_hub

        return pull_hub.cached(model.source)
    try:
        size_bytes = model.cache_path.stat().st_size
    except OSError:
        return None
    # it got its name when it was whole and checked
    return model.cache_path if model.size_bytes in (None, size_bytes) else None


def local_path(source: PathSource) -> Path:
    """The path that an entry means."""
    return expanded(os.path.expandvars(source.path))


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
    from pipeinfer_cli import pull

    return pull.pull(model)


def with_default_draft(config: GenerateConfig) -> GenerateConfig:
    """Fills in `-md auto`: the catalogue's draft for the target, and what is known of the pair.

    Each cutoff or length that was given stays. UserError if the catalogue has no draft for it.
    """
    if config.draft_model != AUTO:
        return config
    pair = catalogue().default_pair(config.model)
    if pair is None:
        raise UserError(
            f"-md auto: no draft is known for {config.model!r}: name one (models pairs lists pairs)"
        )
    given = {name: getattr(config.draft, name) for name in config.draft_given}
    draft = replace(pair.draft_config, **given)
    if "n_max" in given:
        draft = replace(draft, auto_length=config.draft.auto_length)
    return replace(config, draft_model=pair.draft, draft=draft)


def _looks_like_path(text: str) -> bool:
    return "/" in text or text.endswith(".gguf") or text.startswith("~")


def _check_file(path: Path) -> Path:
    """What can be said without reading the file; whether it is a GGUF, the loader says."""
    try:
        with path.open("rb"):
            return path.absolute()
    except OSError as error:
        raise UserError(
            f"cannot read the model {str(path)!r}: {error.strerror}: check -m/--model"
        ) from None
