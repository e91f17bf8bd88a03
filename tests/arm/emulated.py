"""A Python for 64-bit ARM that qemu runs, in a folder of its own.

Nothing is installed on this machine: packages of Debian (or of whatever apt is set up for here) are
fetched and unpacked, and its python is a script that calls qemu.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

CPUS = {  # a processor of qemu's for each kind: vectors of SVE have 16, 32 or 64 bytes
    "neon": ("neon", "cortex-a53"),
    "dotprod": ("dotprod", "max,sve=off"),
    "i8mm": ("i8mm", "max,sve=off"),
    "sve128": ("sve", "max,sve-default-vector-length=16"),
    "sve256": ("sve", "max,sve-default-vector-length=32"),
    "sve512": ("sve", "max,sve-default-vector-length=64"),
}
FOLDER = Path(os.environ.get("TEST_ARM", "")).resolve()  # what `make test-arm` has made
DEBIAN = (
    "python3-minimal", "libpython3-stdlib", "libstdc++6", "libgomp1", "zlib1g", "ca-certificates",
)  # fmt: skip
NEEDED = {
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu",
    "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu",
    "qemu-aarch64": "qemu-user",
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
}


def missing() -> str:
    """What to install first, or nothing."""
    packages = [package for program, package in NEEDED.items() if not shutil.which(program)]
    return f"apt install {' '.join(packages)}" if packages else ""


class Emulated:
    """The folders, and commands in them."""

    def __init__(self, folder: Path, venv: str = "venv") -> None:
        self.root, self.venv = folder / "root", folder / venv
        self._apt = folder / "apt"

    @property
    def python(self) -> Path:
        """A script that is called as python is."""
        return self.venv / "bin" / "python"

    @property
    def site(self) -> Path:
        """Its folder of packages."""
        return next(self.venv.glob("lib/python3.*/site-packages"))

    def make_root(self) -> None:
        """Fetches and unpacks the packages."""
        for name in ("state/lists/partial", "cache/archives/partial"):
            (self._apt / name).mkdir(parents=True, exist_ok=True)
        (self._apt / "status").touch()
        options = (
            "APT::Architecture=arm64", "APT::Architectures::=arm64", "APT::Sandbox::User=",
            f"Dir::State={self._apt}/state", f"Dir::State::status={self._apt}/status",
            f"Dir::Cache={self._apt}/cache", "APT::Install-Recommends=false", "Debug::NoLocking=1",
        )  # fmt: skip
        apt = ["apt-get", "--quiet", *(word for option in options for word in ("-o", option))]
        check([*apt, "update"])
        check([*apt, "install", "--yes", "--download-only", *DEBIAN])
        self.root.mkdir(parents=True, exist_ok=True)
        for package in sorted((self._apt / "cache/archives").glob("*.deb")):
            check(["dpkg-deb", "--extract", str(package), str(self.root)])

    def make_venv(self, requirements: Sequence[str]) -> None:
        """A virtual environment with these packages, by this Python's pip."""
        real = next(path for path in self.root.glob("usr/bin/python3.*") if path.name[8:].isdigit())
        home = self.root / "usr" / "bin"
        self.python.parent.mkdir(parents=True, exist_ok=True)
        (self.venv / "pyvenv.cfg").write_text(f"home = {home}\n", encoding="utf-8")
        (self.venv / "lib" / real.name / "site-packages").mkdir(parents=True, exist_ok=True)
        self._write_script(self.python, real)
        self.install(*requirements)

    def install(self, *requirements: str) -> None:
        import pip

        env = {**os.environ, "PYTHONPATH": str(Path(pip.__file__).parents[1])}
        pip_command = ["-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        options = ["--only-binary", ":all:", "--ignore-installed", "--no-warn-script-location"]
        check([str(self.python), *pip_command, *options, *requirements], env=env)

    def install_alike(self, *names: str) -> None:
        """What packages of this Python depend on, without extras and each other."""
        needed = [each for name in names for each in metadata.requires(name) or ()]
        found = [each for each in needed if "extra ==" not in each and not each.startswith(names)]
        self.install(*dict.fromkeys(found))

    def copy(self, name: str, modules: str) -> None:
        """A package of this Python's, whose libraries, if it has any, are left out."""
        for path in metadata.files(name) or ():
            if path.suffix != ".so" and path.parts[0].startswith(modules):
                target = self.site / path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path.locate(), target)

    def _write_script(self, script: Path, program: Path) -> None:
        """The processor is what QEMU_CPU says, which qemu reads itself."""
        words = f'exec qemu-aarch64 -L "{self.root}" -0 "$0" "{program}" "$@"'
        script.write_text(f"#!/bin/sh\n{words}\n", encoding="utf-8")
        script.chmod(script.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


EMULATED = Emulated(FOLDER)
WITH_WHEEL = Emulated(FOLDER, "venv-wheel")  # what `make test-wheel-arm` has made


def check(command: Sequence[str], **more: object) -> str:
    """Runs it and returns its output; RuntimeError, with what it said, if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, **more)  # type: ignore[call-overload]
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command[:6])} ... failed:\n{(done.stdout + done.stderr)[-3000:]}"
        )
    return str(done.stdout)
