"""`pipeinfer doctor`: what is installed, how it fits, and what to do where it does not."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeinfer_cli import console
from pipeinfer_cli.cli.doctor import cluster as doctor_cluster
from pipeinfer_cli.engine import abi, build_info, loaded
from pipeinfer_cli.engine.cpu import variants
from pipeinfer_cli.engine.cpu.devices import DEVICE_BACKENDS
from pipeinfer_cli.engine.cpu.exactness import EXACT_CACHE_TYPES, MEANING, WEIGHT_TYPES, inexact
from pipeinfer_cli.errors import PipeinferError
from pipeinfer_cli.launch import environment
from pipeinfer_cli.launch.host import cgroup, mpi_choice, mpi_info, numa, shared_memory
from pipeinfer_cli.launch.host.cores import Cores
from pipeinfer_cli.launch.host.mpi_info import ABI_NAMES, MpiInfo
from pipeinfer_cli.models import cache, catalogue, resolve

COMMAND_TIMEOUT_S = 20.0
MIN_PYTHON = (3, 10)
ORIGINS = {"wheel": "a wheel", "system": "of this machine", "mpi4py": "mpi4py was built for it"}
LAUNCHER_WORDS = {"openmpi": ("Open MPI", "OpenRTE", "PRTE"), "mpich": ("HYDRA", "MPICH")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding. `needed` is False where generation works all the same."""

    name: str
    ok: bool
    text: str
    todo: str = ""
    needed: bool = True

    @property
    def verdict(self) -> str:
        """`ok`, `not ok` or `note`."""
        if self.ok:
            return "ok"
        return "not ok" if self.needed else "note"


def doctor() -> Callable[[], int]:
    """Check what is installed and how it fits; exit code 1 if generation cannot work."""
    return run


def run() -> int:
    """Prints all checks; 0 if generation can work, else 1."""
    works = True
    for check in checks():
        console.check_line(check.verdict, check.name, check.text, check.todo)
        works = works and (check.ok or not check.needed)
    return 0 if works else 1


def checks() -> Iterator[Check]:
    """All checks, one after the other; none of them raises."""
    yield _python()
    try:
        info = build_info.load()
    except PipeinferError as error:
        yield Check(name="library", ok=False, text=str(error), todo="pip install pipeinfer again")
    else:
        yield Check(name="upstream", ok=True, text=_upstream(info))
        for name, check in (
            ("library", _library),
            ("CPU variant", _variant),
            *([("devices", _devices)] if DEVICE_BACKENDS & {*info.other_backends} else []),
            ("exact texts", lambda: _exactness(info)),
            ("llama-cpp-python", lambda: _bindings(info)),
        ):
            yield _guarded(name, check)
    yield from _mpi()
    yield _guarded("job", _job)
    yield _guarded("cores", _cores)
    yield _guarded("NUMA nodes", _numa_nodes)
    yield _guarded("memory", _memory)
    yield _guarded("model cache", _cache)


def _mpi() -> Iterator[Check]:
    """Of the MPI that ranks would use that are started here and now."""
    try:
        mpi = mpi_choice.choose()
    except PipeinferError as error:
        is_named = bool(os.environ.get(mpi_choice.VARIABLE))
        todo = (
            f"unset {mpi_choice.VARIABLE}, or name another MPI" if is_named else "pip install mpich"
        )
        yield Check(name="MPI library", ok=False, text=str(error), todo=todo)
        return
    for name, check in (
        ("MPI library", lambda: _mpi_library(mpi)),
        ("shared memory", lambda: _shared_memory(mpi)),
        ("MPI launcher", lambda: _launcher(mpi)),
        ("mpiexec in PATH", lambda: _foreign_mpiexec(mpi)),
        ("srun", lambda: _srun(mpi)),
    ):
        yield _guarded(name, check)


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    """A check that fails in a way nobody foresaw is a finding too."""
    try:
        return check()
    except Exception as error:  # noqa: BLE001
        text = " ".join(str(error).split()) or type(error).__name__
        return Check(name=name, ok=False, text=text, todo="pip install pipeinfer again")


def _python() -> Check:
    return Check(
        name="Python",
        ok=sys.version_info >= MIN_PYTHON,
        text=f"{platform.python_version()} ({sys.executable})",
        todo="" if sys.version_info >= MIN_PYTHON else "install Python 3.10 or newer",
    )


def _upstream(info: build_info.BuildInfo) -> str:
    patches = ", ".join(info.patches) or "none"
    options = " ".join(f"{key}={value}" for key, value in sorted(info.ggml_options.items()))
    return (
        f"{info.upstream_package} {info.upstream_version}, patches: {patches}; "
        f"{info.build_type} by {info.compiler} {options}".rstrip()
    )


def _library() -> Check:
    """In a process of its own: a library that does not fit may end it."""
    code = "from pipeinfer_cli.engine import abi; abi.load()"
    failed = _probe(code)
    path = build_info.LIB_DIR / "libpipeinfer.so"
    if failed:
        todo = loaded.remedy(os.environ, "pip install pipeinfer again, on this machine")
        return Check(name="library", ok=False, text=f"{path} does not load: {failed}", todo=todo)
    return Check(name="library", ok=True, text=f"{path} loads")


def _variant() -> Check:
    """Which instructions ranks on this host compute with."""
    name, processor = "CPU variant", variants.processor()
    built, usable = variants.built(abi.lib_dir()), variants.usable()
    if not usable:
        text = f"{processor} has none of the instructions of {', '.join(built)}"
        todo = "build pipeinfer on this machine: make build CMAKE_ARGS=-DGGML_NATIVE=ON"
        return Check(name=name, ok=False, text=text, todo=todo)
    text = f"{usable[0]} on {processor}"
    if usable[1:]:
        text += f"; {variants.OPTION} can also be {', '.join(usable[1:])}"
    if others := [each for each in built if each not in usable]:
        text += f"; built for other processors: {', '.join(others)}"
    return Check(name=name, ok=True, text=text)


def _devices() -> Check:
    """In a process of its own, as the library: a driver may end it."""
    code = (
        "from pipeinfer_cli.engine.cpu import devices, variants; "
        'variants.load(); print(*devices.found(), sep="\\n")'
    )
    done = _python_with(code)
    found = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode != 0 or not found:
        text = "none that this build can use" if done.returncode == 0 else _failure_of(done)
        todo = "install the device's driver, or compute on the CPU (--device none)"
        return Check(name="devices", ok=False, needed=False, text=text, todo=todo)
    return Check(name="devices", ok=True, text="; ".join(found))


def _exactness(info: build_info.BuildInfo) -> Check:
    """Of this build on this processor, and of the models in the cache."""
    from pipeinfer_cli.models.gguf.info import read_model_info  # loads the library

    name, machine = "exact texts", platform.machine()
    if why := inexact(info, machine):
        return Check(name=name, ok=False, needed=False, text=f"{why}: {MEANING}")
    cached = {
        model.name: path
        for model in resolve.catalogue().models.values()
        if (path := cache.cached_path(model))
    }
    for model, path in cached.items():
        found = read_model_info(path)
        if why := inexact(info, machine, found.weight_types, arch=found.arch):
            return Check(
                name=name, ok=False, needed=False, text=f"not of {model}: {why}: {MEANING}"
            )
    weights, caches = ", ".join(WEIGHT_TYPES.values()), ", ".join(sorted(EXACT_CACHE_TYPES))
    text = f"on {machine}, with weights of {weights} and KV caches of {caches}"
    return Check(name=name, ok=True, text=text)


def _bindings(info: build_info.BuildInfo) -> Check:
    name, wanted = info.upstream_package, info.upstream_version
    build = "CMAKE_ARGS='-DLLAMA_BUILD=OFF -DLLAVA_BUILD=OFF'"
    todo = f"{build} pip install --no-cache-dir {name}=={wanted}"
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Check(name=name, ok=False, text="is not installed", todo=todo)
    if found != wanted:
        text = f"is {found}, but the library is built from {wanted}"
        return Check(name=name, ok=False, text=text, todo=todo)
    failed = _probe("import llama_cpp", {"LLAMA_CPP_LIB_PATH": str(build_info.LIB_DIR)})
    if failed:
        return Check(name=name, ok=False, text=f"does not load our libllama: {failed}", todo=todo)
    return Check(name=name, ok=True, text=f"{found}, loads our libllama")


def _mpi_library(mpi: MpiInfo) -> Check:
    text = f"{mpi} ({ORIGINS[mpi.kind]}), {ABI_NAMES[mpi.abi]}, {mpi.path}"
    if others := [str(each) for each in mpi_info.wheels() if each.path != mpi.path]:
        text += f" (also installed: {', '.join(others)})"
    # Alone, whatever started doctor: MPI must not try to join a launcher's job.
    failed = _probe("from pipeinfer_cli.launch import mpi; mpi.start()", alone=True)
    if failed:
        names = ", ".join(mpi_info.WHEELS)
        todo = loaded.remedy(
            os.environ, f"choose another: {mpi_choice.VARIABLE}={names}, system or a libmpi's path"
        )
        return Check(name="MPI library", ok=False, text=f"{text}: {failed}", todo=todo)
    return Check(name="MPI library", ok=True, text=f"{text}; mpi4py uses it")


def _shared_memory(mpi: MpiInfo) -> Check:
    name, free = "shared memory", shared_memory.free_bytes()
    n_ranks = shared_memory.n_ranks_that_fit(mpi)
    if free is None:
        text = f"{shared_memory.FOLDER} cannot be written: local ranks cannot start"
        return Check(name=name, ok=False, needed=False, text=text, todo=shared_memory.TODO_NONE)
    text = f"{shared_memory.FOLDER} has {console.size(free)} left"
    if n_ranks is None:
        return Check(name=name, ok=True, text=text)
    text = f"{text}, enough for {n_ranks} local ranks"
    is_enough = n_ranks >= max(2, len(environment.affinity()))
    todo = "" if is_enough else shared_memory.TODO
    return Check(name=name, ok=is_enough, needed=False, text=text, todo=todo)


def _launcher(mpi: MpiInfo) -> Check:
    path = mpi.mpiexec
    if path is None:
        # Under srun, or with --ranks 1, none is needed.
        todo = "start with your launcher (srun), or --ranks 1"
        text = f"there is no mpiexec of {mpi.family}"
        return Check(name="MPI launcher", ok=False, text=text, todo=todo, needed=False)
    said = _launcher_version(path)
    version = re.search(r"\d+\.\d+[\w.]*", said)
    family = _family_of(said)
    found = f"{path}: {family or 'unknown'} {version.group() if version else '(no version)'}"
    if family not in (None, mpi.family) or (version and version.group() != mpi.version):
        text = f"{found}, but the library is {mpi.family} {mpi.version}"
        todo = f"name another MPI ({mpi_choice.VARIABLE}), or install both from one package"
        # Open MPI 5 starts ranks with PRTE, which counts its own versions.
        needed = family not in (None, mpi.family)
        return Check(name="MPI launcher", ok=False, text=text, todo=todo, needed=needed)
    return Check(name="MPI launcher", ok=True, text=found)


def _foreign_mpiexec(mpi: MpiInfo) -> Check:
    ours, first = mpi.mpiexec, shutil.which("mpiexec")
    if first is None or ours is None or Path(first).resolve() == Path(ours).resolve():
        return Check(name="mpiexec in PATH", ok=True, text=first or f"none; ours is {ours}")
    family = _family_of(_launcher_version(first)) or "unknown"
    return Check(
        name="mpiexec in PATH",
        ok=False,
        needed=False,
        text=f"{first} ({family}) is not the one of the library",
        todo=f"start jobs with {ours}, or put its folder first in PATH",
    )


def _launcher_version(path: str) -> str:
    done = subprocess.run(
        [path, "--version"], capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
    )
    return done.stdout + done.stderr


def _family_of(said: str) -> str | None:
    for family, words in LAUNCHER_WORDS.items():
        if any(word.lower() in said.lower() for word in words):
            return family
    return None


def _srun(mpi: MpiInfo) -> Check:
    types = doctor_cluster.srun_types()
    if types is None:
        return Check(name="srun", ok=True, text="none: Slurm is not installed here")
    text = f"its --mpi can be {', '.join(types)}" if types else "it lists no types for --mpi"
    if not doctor_cluster.fits(mpi, types):
        text += f"; {mpi.family} needs {mpi.srun_type}"
        todo = "start ranks with mpiexec in the job, or install pipeinfer for an MPI that fits"
        return Check(name="srun", ok=False, needed=False, text=text, todo=todo)
    return Check(name="srun", ok=True, text=f"{text}; {mpi.family} takes {mpi.srun_type}")


def _job() -> Check:
    unused = environment.unused_tasks(os.environ) if environment.detect(os.environ).alone else None
    text = (
        "; ".join(doctor_cluster.job(os.environ)) or "none: not in a batch job or under a launcher"
    )
    if unused:
        text = f"{text}; {unused}"
    todo = "start generation with srun, or mpiexec" if unused else ""
    return Check(name="job", ok=not unused, needed=False, text=text, todo=todo)


def _cores() -> Check:
    usable, all_cores = len(environment.affinity()), os.cpu_count() or 1
    ranks = environment.default_ranks()
    threads = environment.default_threads(ranks)
    shown = environment.format_cpulist(environment.affinity())
    quota = cgroup.limits().cpus
    is_short = quota is not None and quota < usable
    text = (
        f"{usable} of {all_cores} usable ({shown})"
        f"{f', {quota:g} by the CPU quota of the control group' if is_short else ''}; "
        f"default: {ranks} rank(s), {threads} thread(s) each"
    )
    todo = "raise the CPU quota of the container or job" if is_short else ""
    if usable < all_cores:
        todo = todo or "an affinity mask hides some: see taskset or the batch job"
    return Check(name="cores", ok=not todo, needed=False, text=text, todo=todo)


def _numa_nodes() -> Check:
    """Of our CPUs; what the kernel does with memory there."""
    name, host, cpus = "NUMA nodes", Cores.read(), environment.affinity()
    parts = [
        f"{node} (cores {environment.format_cpulist(c for c in cpus if host.node_of(c) == node)})"
        for node in host.nodes_of(cpus)
    ]
    text = f"{', '.join(parts)} of {host.n_nodes}"
    policy = numa.memory_policy()
    if policy != numa.DEFAULT_POLICY:
        text += f"; memory policy {policy}, which --numa auto leaves alone"
    return Check(name=name, ok=True, text=text)


def _memory() -> Check:
    memory = environment.memory()
    text = f"{console.size(memory.available_bytes)} of {console.size(memory.total_bytes)} available"
    if memory.usable_bytes < memory.total_bytes:
        text += f", {console.size(memory.usable_bytes)} at most by the control group"
    return Check(name="memory", ok=True, text=text)


def _cache() -> Check:
    folder = catalogue.models_dir()
    cached = [
        model.name for model in resolve.catalogue().models.values() if cache.cached_path(model)
    ]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Check(
            name="model cache",
            ok=False,
            needed=False,
            text=f"{folder} cannot be written: {error.strerror}",
            todo="set PIPEINFER_CACHE to a folder that can be, or give -m a GGUF path",
        )
    return Check(name="model cache", ok=True, text=f"{folder}: {', '.join(cached) or 'empty'}")


def _probe(code: str, env: dict[str, str] | None = None, *, alone: bool = False) -> str:
    """Runs the code in a Python of its own; what went wrong in one line, or nothing."""
    base = dict(os.environ)
    if alone:
        launched = ("PMI", "OMPI_", "SLURM_", "PALS_", "MPI_LOCAL", "HYDI_", "PRTE_")
        base = {key: value for key, value in base.items() if not key.startswith(launched)}
    try:
        return _failure_of(_python_with(code, {**base, **(env or {})}))
    except subprocess.TimeoutExpired:
        return f"no answer within {COMMAND_TIMEOUT_S:g} s"


def _python_with(code: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the code in a Python of its own."""
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"],
        env=env,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )


def _failure_of(done: subprocess.CompletedProcess[str]) -> str:
    """In one line, or nothing."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    if done.returncode == 0:
        return ""
    if done.returncode < 0:
        return f"killed by signal {-done.returncode}"
    return lines[-1].split(": ", 1)[-1] if lines else f"exit code {done.returncode}"
