#!/usr/bin/env python3
"""Put the pinned llama.cpp, patched, into a folder where CMake can build it.

Reads the pin (package, version, SHA-256 of a sdist), gets the sdist, checks its hash, applies the
patch queue and writes the files. A second call with the same pin and patches does nothing; a call
with changed patches touches only the files whose content changes: ninja rebuilds only those.

Needs nothing but Python, and pip when the sdist is neither given nor cached.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from unidiff import PatchError, apply_patch

# What the libraries are built from. The rest of llama.cpp (tools, tests, vocabularies, pictures,
# documents: 130 MB) stays in the archive.
KEPT = ("CMakeLists.txt", "LICENSE", "cmake/", "ggml/", "include/", "licenses/", "src/", "vendor/")
# What its programs need as well, for benchmarks. The pages of the web interface are left out.
KEPT_TOOLS = ("common/", "examples/", "pocs/", "scripts/ui-assets.cmake", "tools/")
LEFT_OUT = ("tools/ui/src/", "tools/ui/static/", "tools/ui/tests/", "tools/server/tests/")
STAMP = ".pipeinfer.json"
SDIST_VARIABLE = "PIPEINFER_UPSTREAM_SDIST"


class UpstreamError(Exception):
    """The source cannot be prepared; the message is one line for people."""


@dataclass(frozen=True)
class Pin:
    """Which sdist llama.cpp is taken from."""

    package: str
    version: str
    sha256: str

    @property
    def filename(self) -> str:
        """Name of the sdist in the cache."""
        return f"{self.package.replace('-', '_')}-{self.version}.tar.gz"


def read_pin(path: Path) -> Pin:
    """Parse the `key = value` lines of native/UPSTREAM."""
    lines = (line.partition("#")[0] for line in path.read_text(encoding="utf-8").splitlines())
    values = {
        key.strip(): value.strip()
        for key, sep, value in (line.partition("=") for line in lines)
        if sep
    }
    try:
        return Pin(**values)
    except TypeError:
        raise UpstreamError(
            f"{path} must set package, version and sha256, and nothing else"
        ) from None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where downloaded sdists are kept for the next build folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "pipeinfer" / "sdist"


def check_sdist(pin: Pin, path: Path, origin: str) -> Path:
    """The path, if its hash is the pinned one."""
    found = sha256_of(path)
    if found != pin.sha256:
        raise UpstreamError(
            f"{origin} {path} has SHA-256 {found}, but {pin.sha256} is pinned for "
            f"{pin.package} {pin.version} in native/UPSTREAM: it is not used"
        )
    return path


def download(pin: Pin, folder: Path) -> Path:
    """Have pip download the sdist, with the user's index, proxy and certificates."""
    # Building the sdist's metadata needs its build backend, which is in our build environment:
    # without isolation pip does not make a second one.
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
    ]
    command += ["--disable-pip-version-check", "--no-binary", pin.package, "--dest", str(folder)]
    result = subprocess.run(
        [*command, f"{pin.package}=={pin.version}"], check=False, capture_output=True, text=True
    )
    if result.returncode != 0:
        reason = (
            result.stderr.strip() or result.stdout.strip() or "pip said nothing"
        ).splitlines()[-1]
        raise UpstreamError(
            f"cannot download the sdist of {pin.package} {pin.version} ({reason}): "
            f"on a machine without a network, set {SDIST_VARIABLE} to a copy of {pin.filename}"
        )
    return next(folder.glob("*.tar.gz"))


def find_sdist(pin: Pin) -> Path:
    """A checked sdist: the one the user gives, else the cached one, else a download, now cached."""
    given = os.environ.get(SDIST_VARIABLE)
    if given:
        if not Path(given).is_file():
            raise UpstreamError(f"{SDIST_VARIABLE} is {given}, which is not a file")
        return check_sdist(pin, Path(given), f"{SDIST_VARIABLE}:")
    cached = cache_folder() / pin.filename
    if cached.is_file() and sha256_of(cached) == pin.sha256:
        return cached
    cached.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cached.parent) as folder:
        # In the same file system, so that the rename is atomic and nobody sees half a file.
        check_sdist(pin, download(pin, Path(folder)), "the downloaded").replace(cached)
    return cached


def read_sources(sdist: Path, kept: tuple[str, ...] = KEPT) -> dict[str, bytes]:
    """The kept files of vendor/llama.cpp in the sdist, by path relative to llama.cpp."""
    sources: dict[str, bytes] = {}
    try:
        with tarfile.open(sdist) as archive:
            for member in archive:
                name = member.name.partition("/vendor/llama.cpp/")[2]
                if member.isfile() and name.startswith(kept) and not name.startswith(LEFT_OUT):
                    content = archive.extractfile(member)
                    assert content is not None
                    sources[name] = content.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UpstreamError(f"cannot unpack {sdist}: {error}") from error
    if "CMakeLists.txt" not in sources:
        raise UpstreamError(f"{sdist} has no vendor/llama.cpp")
    return sources


def write_changed(sources: dict[str, bytes], folder: Path) -> int:
    """Make the folder hold exactly these files; unchanged ones keep their mtime."""
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        if path.relative_to(folder).as_posix() not in sources:
            path.unlink()
    n_written = 0
    for name, content in sources.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            n_written += 1
    return n_written


def prepare(pin: Pin, patches: list[Path], folder: Path, *, tools: bool = False) -> str:
    """Bring the folder to the pinned source plus the patches; says in one line what was done.

    With `tools` the folder also gets llama.cpp's programs.
    """
    kept = KEPT + KEPT_TOOLS if tools else KEPT
    queue = [{"name": path.name, "sha256": sha256_of(path)} for path in patches]
    stamp = json.dumps({"upstream": asdict(pin), "patches": queue, "kept": kept}, indent=1)
    stamp_path = folder / STAMP
    what = f"{pin.package} {pin.version} with {len(patches)} patches"
    if stamp_path.is_file() and stamp_path.read_text(encoding="utf-8") == stamp:
        return f"{what}: up to date"
    sources = read_sources(find_sdist(pin), kept)
    for path in patches:
        try:
            apply_patch(sources, path.read_bytes())
        except PatchError as error:
            raise UpstreamError(f"patch {path.name} does not apply to {what}: {error}") from error
    # The stamp goes first and comes back last: an interrupted write is done again.
    stamp_path.unlink(missing_ok=True)
    n_written = write_changed(sources, folder)
    stamp_path.write_text(stamp, encoding="utf-8")
    return f"{what}: {n_written} of {len(sources)} files written"


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pin", type=Path, required=True, help="native/UPSTREAM")
    parser.add_argument(
        "--patches", type=Path, help="folder of *.patch files; none: the source as it is"
    )
    parser.add_argument("--tools", action="store_true", help="llama.cpp's programs as well")
    parser.add_argument("--into", type=Path, required=True, help="folder to fill")
    args = parser.parse_args(argv)
    patches = sorted(args.patches.glob("*.patch")) if args.patches else []
    try:
        print(prepare(read_pin(args.pin), patches, args.into, tools=args.tools))
    except UpstreamError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"cannot prepare llama.cpp: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
