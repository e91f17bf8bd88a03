"""What `pipeinfer serve` was asked to do."""

from __future__ import annotations

import ipaddress
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from pipeinfer_cli.checks import MAX_COUNT, check_count
from pipeinfer_cli.commands.generate_config import GenerateConfig
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.files import check_writable
from pipeinfer_cli.scheduler.kv_sequences import MAX_PARALLEL

DEFAULT_PARALLEL = 4
DEFAULT_PORT = 8080
DEFAULT_QUEUE = 64
DEFAULT_DRAIN_S = 30.0
DEFAULT_TIME_LIMIT_S = 3600.0
MAX_PORT = 65535
KEY_VARIABLE = "PIPEINFER_API_KEY"
LOOPBACK_NAME = "localhost"
PACKAGES = ("starlette", "uvicorn", "sse_starlette", "pydantic", "prometheus_client")
AnyServe = TypeVar("AnyServe", bound="ServeConfig")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Where the server listens, and what it allows. UserError if a value is invalid."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT  # 0: a free one
    parallel: int = DEFAULT_PARALLEL  # at most this number of requests in flight
    queue: int = DEFAULT_QUEUE  # at most this number of others wait
    drain_s: float = DEFAULT_DRAIN_S  # after a signal: what running requests get to end
    time_limit_s: float = DEFAULT_TIME_LIMIT_S  # of a request, with its time in the queue
    api_key: str | None = None  # that requests must have; None: anyone may ask
    origins: tuple[str, ...] = ()  # of other sites' pages that may ask
    alias: str | None = None  # what the model is called
    write_url: str | None = None  # a file for the URL and what belongs to it

    def __post_init__(self) -> None:
        if not self.host:
            raise UserError("--host is empty: give an address, as 127.0.0.1 or 0.0.0.0")
        check_count("--port", self.port, MAX_PORT, least=0)
        if not 1 <= self.parallel <= MAX_PARALLEL:
            raise UserError(f"--parallel {self.parallel}: give a number from 1 to {MAX_PARALLEL}")
        check_count("--queue", self.queue, MAX_COUNT)
        _check_seconds("--drain", self.drain_s, least=0)
        _check_seconds("--time-limit", self.time_limit_s)
        if self.alias is not None and not self.alias.isprintable():
            raise UserError(f"--alias {self.alias!r}: give a name of printable characters")
        if self.write_url is not None:
            if not self.write_url:
                raise UserError("--write-url is empty: name a file")
            check_writable("--write-url", self.write_url)

    @property
    def is_any(self) -> bool:
        """Whether it listens on all networks of the machine."""
        try:
            return ipaddress.ip_address(self.host).is_unspecified
        except ValueError:
            return False

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches it."""
        return is_loopback(self.host)


def is_loopback(name: str) -> bool:
    """Whether a name or an address is that of the machine itself."""
    if name == LOOPBACK_NAME:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _check_seconds(option: str, value: float, *, least: float | None = None) -> None:
    is_enough = value > 0 if least is None else value >= least
    if not (math.isfinite(value) and is_enough):
        bound = "above 0" if least is None else f"from {least:g}"
        raise UserError(f"{option} {value:g}: give a number of seconds {bound}")


def read_api_key(file: Path | None, environ: Mapping[str, str]) -> str | None:
    """The key of --api-key-file, or of the environment; None: there is none. Raises UserError."""
    if file is None:
        return environ.get(KEY_VARIABLE) or None
    try:
        key = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UserError(
            f"--api-key-file {str(file)!r}: {error.strerror}: name a file with the key"
        ) from None
    except UnicodeDecodeError:
        key = ""
    if not key.isascii() or not key.isprintable() or " " in key or not key:
        raise UserError(f"--api-key-file {str(file)!r}: give a key of printable ASCII characters")
    return key


def check_installed() -> None:
    """UserError if the packages of the extra are missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(
            f"pipeinfer serve needs {', '.join(missing)}: pip install 'pipeinfer[serve]'"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig(GenerateConfig):
    """Requests that come over HTTP, until a signal ends the job: `prompt` is empty.

    Sampling options, `n_predict`, `stop` and `ignore_eos` are for what a request leaves open.
    """

    server: ServerOptions
    has_seed: bool = False  # requests that give no seed have this one; else one is drawn for each

    @property
    def takes_messages(self) -> bool:
        """Whether there is use for a chat template."""
        return True

    @property
    def drain_s(self) -> float | None:
        """How long requests may take to end after a signal."""
        return self.server.drain_s

    @property
    def n_texts(self) -> int:
        """Those in flight, and as many tokens as one more of texts that are over."""
        return self.server.parallel + 1

    def resolved(self: AnyServe) -> AnyServe:
        """The same with the models' files, and for another folder. Raises UserError."""
        server = self.server
        if server.write_url is not None:
            server = replace(server, write_url=os.path.abspath(server.write_url))  # noqa: PTH100
        return GenerateConfig.resolved(replace(self, server=server))
