"""Which named models are on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from pipeinfer_cli.files import expanded, is_there
from pipeinfer_cli.models.catalogue import HubSource, NamedModel, PathSource


def cached_path(model: NamedModel) -> Path | None:
    """The model's GGUF (of several files, the first) if it is on this machine, whole."""
    if isinstance(model.source, PathSource):
        path = local_path(model.source)
        return path if is_there(path) else None
    if isinstance(model.source, HubSource):
        from pipeinfer_cli.models import download_hub

        return download_hub.cached(model.source)
    try:
        size_bytes = model.cache_path.stat().st_size
    except OSError:
        return None
    # it got its name when it was whole and checked
    return model.cache_path if model.size_bytes in (None, size_bytes) else None


def local_path(source: PathSource) -> Path:
    """The path that an entry means."""
    return expanded(os.path.expandvars(source.path))
