"""Files of Hugging Face repositories, by huggingface-hub: in its cache, with its token.

`hf:USER/REPO` is the repository's GGUF of the usual quantization, `hf:USER/REPO:QUANT` of another
one, `hf:USER/REPO/FILE.gguf` a file.
"""

from __future__ import annotations

import importlib.util
import os
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pipeinfer_cli.errors import RunError, UserError
from pipeinfer_cli.models.catalogue import HUB_PREFIX, HubSource
from pipeinfer_cli.models.gguf import reader

REACH_S = 5.0
ENDPOINT = "https://huggingface.co"
PORTS = {"https": 443, "http": 80}
REVISION = "main"
USUAL = "Q4_K_M"  # as in llama.cpp
NAMED = re.compile(r"([\w.-]+/[\w.-]+)(?::([\w.-]+)|/([\w./-]+\.gguf))?")
QUANT = re.compile(r"(?i:(?:^|[-._/])((?:UD-)?(?:I?Q\d\w*|BF16|F16|F32|MXFP4\w*))(?=[-./]|$))")


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
    """As `fetch_all`; the first file."""
    return fetch_all(source)[0]


def fetch_all(source: HubSource) -> list[Path]:
    """Brings the files into the hub's cache, continuing where it stopped; returns their paths.

    Raises UserError if huggingface-hub or a permission is missing, RunError if it fails.
    """
    _check_usable()
    from huggingface_hub import hf_hub_download

    with _errors(source):
        return [
            Path(hf_hub_download(source.repository, file, revision=source.revision))
            for file in source.files
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class HubName:
    """A GGUF of a repository, as it is named after `hf:`."""

    repository: str
    quant: str = ""  # empty: the usual one
    file: str = ""  # empty: the one of the quantization

    @classmethod
    def of(cls, text: str) -> HubName:
        """UserError if it is not a name of that form."""
        match = NAMED.fullmatch(text.removeprefix(HUB_PREFIX))
        if match is None or ".." in text:
            raise UserError(
                f"-m {text!r}: give {HUB_PREFIX}USER/REPO, {HUB_PREFIX}USER/REPO:QUANT or "
                f"{HUB_PREFIX}USER/REPO/FILE.gguf"
            )
        return cls(repository=match[1], quant=match[2] or "", file=match[3] or "")

    def choose(self, files: Sequence[str], *, is_all: bool = True) -> HubSource:
        """The files of that GGUF, of those of the repository. UserError if there is none.

        Any GGUF will do if no quantization was asked for, the usual one is missing, and these are
        all files.
        """
        models = sorted(each for each in files if each.endswith(".gguf") and "mmproj" not in each)
        found = [each for each in models if self._fits(each)]
        if not found and is_all and not (self.quant or self.file):
            found = models[:1]
        if not found:
            there = sorted({match[1] for each in models if (match := QUANT.search(each))})
            raise UserError(
                f"{self.repository} has no GGUF {self.file or self.quant or 'file'}: "
                f"it has {', '.join(there or models) or 'none'}"
            )
        parts = _parts(found[0], models)
        return HubSource(repository=self.repository, files=parts, revision=REVISION)

    def _fits(self, file: str) -> bool:
        if self.file:
            return file == self.file
        quants = {each.lower() for each in QUANT.findall(file)}
        return (self.quant or USUAL).lower() in quants


def fetch_named(text: str) -> Path:
    """The GGUF that `hf:...` names, from the hub's cache, or fetched. Errors as fetch."""
    name = HubName.of(text)
    try:
        source = name.choose(_cached_files(name.repository), is_all=False)
    except UserError:
        source = name.choose(_listed_files(name))
    return cached(source) or fetch(source)


def _parts(file: str, files: Sequence[str]) -> tuple[str, ...]:
    """All files of a GGUF, the first one first. UserError if one is missing."""
    match = reader.PART.search(file)
    if match is None:
        return (file,)
    n_parts, stem = int(match[2]), reader.PART.sub("", file)
    parts = tuple(f"{stem}-{index:05}-of-{match[2]}.gguf" for index in range(1, n_parts + 1))
    if missing := sorted(set(parts) - set(files)):
        raise UserError(f"the GGUF {file} lacks its part {missing[0]}")
    return parts


def _cached_files(repository: str) -> list[str]:
    """Those of the repository that are in the hub's cache, of its revision REVISION."""
    if not is_installed():
        return []
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    try:
        snapshot = folder / "snapshots" / (folder / "refs" / REVISION).read_text().strip()
    except OSError:
        return []
    return [str(path.relative_to(snapshot)) for path in snapshot.rglob("*.gguf")]


def _listed_files(name: HubName) -> list[str]:
    _check_usable()
    from huggingface_hub import HfApi, constants

    source = HubSource(repository=name.repository, files=(name.file or "GGUF",), revision=REVISION)
    with _errors(source):
        return list(HfApi(endpoint=constants.ENDPOINT).list_repo_files(name.repository))


def _check_usable() -> None:
    if not is_installed():
        raise UserError(
            "it comes from the Hugging Face hub, and huggingface-hub is not installed: "
            "pip install 'pipeinfer[hub]', or fetch the file yourself and give -m its path"
        )
    _check_reachable()


@contextmanager
def _errors(source: HubSource) -> Iterator[None]:
    """What the hub's client raises, for people."""
    from huggingface_hub import errors

    try:
        yield
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
