"""Files of Hugging Face repositories, by huggingface-hub: in its cache, with its token."""

from __future__ import annotations

import importlib.util
import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from pipeinfer_cli.errors import RunError, UserError
from pipeinfer_cli.models.catalogue import HubSource

REACH_S = 5.0
ENDPOINT = "https://huggingface.co"
PORTS = {"https": 443, "http": 80}


def is_installed() -> bool:
    """Whether huggingface-hub is there: the extra `hub`."""
    return importlib.util.find_spec("huggingface_hub") is not None


def cached(source: HubSource) -> Path | None:
    """The first file if all of them are in the hub's cache."""
    if not is_installed():
        return None
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{source.repository.replace('/', '--')}"
    if not folder.is_dir():
        return None  # at once: what follows takes long to import
    from huggingface_hub import try_to_load_from_cache

    looked_up = [
        try_to_load_from_cache(source.repository, file, revision=source.revision)
        for file in source.files
    ]
    found = [each for each in looked_up if isinstance(each, str)]
    return Path(found[0]) if len(found) == len(source.files) else None


def fetch(source: HubSource) -> Path:
    """Brings the files into the hub's cache, continuing where it stopped; returns the first.

    Raises UserError if huggingface-hub or a permission is missing, RunError if it fails.
    """
    if not is_installed():
        raise UserError(
            "it comes from the Hugging Face hub, and huggingface-hub is not installed: "
            "pip install 'pipeinfer[hub]', or fetch the file yourself and give -m its path"
        )
    _check_reachable()
    from huggingface_hub import errors, hf_hub_download

    try:
        paths = [
            hf_hub_download(source.repository, file, revision=source.revision)
            for file in source.files
        ]
    except (errors.GatedRepoError, errors.RepositoryNotFoundError):
        raise UserError(
            f"{source.repository} does not exist on the hub or requires a permission: "
            "ask for access on its page, then set HF_TOKEN or run hf auth login"
        ) from None
    except (errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        raise RunError(
            f"the hub's {source.repository} has no {source.files[0]} at {source.revision} "
            f"({type(error).__name__}): correct the entry in models.toml"
        ) from None
    except (errors.HfHubHTTPError, OSError, ValueError, RuntimeError) as error:
        raise RunError(
            f"the download was interrupted ({' '.join(str(error).split())}): the part received "
            "is kept, and the next pull continues there"
        ) from None
    return Path(paths[0])


def _check_reachable() -> None:
    """RunError at once if nobody is there: the hub's own client would try again and again."""
    if os.environ.get("HF_HUB_OFFLINE", "") in ("1", "ON", "YES", "TRUE", "on", "yes", "true"):
        raise RunError("HF_HUB_OFFLINE is set: unset it, or give -m a GGUF path")
    address = urlsplit(os.environ.get("HF_ENDPOINT") or ENDPOINT)
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return  # the proxy is asked
    try:
        place = (address.hostname or "", address.port or PORTS.get(address.scheme, 443))
        with socket.create_connection(place, timeout=REACH_S):
            return
    except OSError as error:
        raise RunError(
            f"{address.netloc} cannot be reached ({error.strerror or error}): check the network, "
            "or give -m a GGUF path"
        ) from None
