"""What tests of several folders share."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from pipeinfer_cli.commands import start
from pipeinfer_cli.commands.generate_config import GenerateConfig
from pipeinfer_cli.launch import signals

# A shell lets its background jobs ignore SIGINT, and so would the commands that we interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How many examples a property gets; tests with a large space multiply it. `.ci/run` asks for "ci".
hypothesis.settings.register_profile("local", max_examples=25, deadline=None)
hypothesis.settings.register_profile("ci", max_examples=100, deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "local"))

LAUNCHED = (
    "PMI_", "PMIX_", "OMPI_", "SLURM_", "PBS_", "LSB_", "PALS_", "MPI_LOCAL", "HYDI_", "PIPEINFER_",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see no launcher and no settings of whoever runs them, but keep the model cache."""
    for name in list(os.environ):
        if name.startswith(LAUNCHED) and name != "PIPEINFER_CACHE":
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIPEINFER_MODELS", os.devnull)  # the user's own models.toml


@pytest.fixture
def keep_signals() -> Iterator[None]:
    """What the test does to the handlers of signals does not outlive it."""
    before = {signum: signal.getsignal(signum) for signum in signals.SIGNALS}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch) -> list[GenerateConfig]:
    """The configurations of jobs that the test's commands would have run."""
    seen: list[GenerateConfig] = []
    monkeypatch.setattr(start, "generate", lambda config: seen.append(config) or 0)
    return seen


@pytest.fixture
def mpiexec() -> str:
    """The launcher of the MPI wheel in this environment."""
    path = shutil.which(Path(sys.prefix) / "bin" / "mpiexec")
    assert path is not None, "the mpich wheel is not installed here: pip install .[test]"
    return path
