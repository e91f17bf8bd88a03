"""Where a server is: URL, key and the way there, in a file while it runs."""

from __future__ import annotations

import os
import shlex
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pipeinfer_cli.commands.serve.config import ServerOptions
from pipeinfer_cli.errors import RunError

LOGIN = "LOGIN_NODE"  # nobody here knows its name


def address(options: ServerOptions, port: int, environ: Mapping[str, str]) -> dict[str, str]:
    """What a client needs to know. `tunnel` is for a machine that only reaches the login node."""
    node = environ.get("SLURMD_NODENAME") or socket.gethostname()
    host = node if options.is_any else options.host
    base = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    if options.is_local:
        tunnel = f"ssh -N -J {LOGIN} -L {port}:{options.host}:{port} {node}"
    else:
        tunnel = f"ssh -N -L {port}:{host}:{port} {LOGIN}"
    found = {"url": base, "base_url": f"{base}/v1", "tunnel": tunnel}
    if options.api_key is not None:
        found["api_key"] = options.api_key
    return found


@contextmanager
def written(path: str | None, fields: Mapping[str, str]) -> Iterator[None]:
    """A file with these, while the block runs: `NAME=VALUE` lines, as a shell reads them.

    Only its owner can read it. RunError if it cannot be written.
    """
    if path is None:
        yield
        return
    lines = "".join(f"{name}={shlex.quote(value)}\n" for name, value in fields.items())
    target = Path(path)
    try:
        with tempfile.NamedTemporaryFile("w", dir=target.parent, delete=False) as part:  # 0600
            part.write(lines)
        os.replace(part.name, target)  # noqa: PTH105
    except OSError as error:
        raise RunError(f"--write-url {path!r}: {error.strerror}") from None
    try:
        yield
    finally:
        if target.exists() and target.read_text() == lines:  # not another job's
            target.unlink()
