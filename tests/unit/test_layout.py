"""The layout check of `make lint`: this package passes, and a planted fault is found."""

from pathlib import Path

import pytest

import check_layout

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("cli/__init__", "cli/main", "engine/__init__", "engine/abi", "errors"):
        path = tmp_path / check_layout.PACKAGE / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def write(folder: Path, module: str, text: str) -> None:
    (folder / check_layout.PACKAGE / module).with_suffix(".py").write_text(text)


def test_this_package_passes() -> None:
    assert check_layout.problems(ROOT) == []


def test_downward_imports_pass(folder: Path) -> None:
    write(
        folder,
        "cli/main",
        "from pipeinfer_cli import errors\nfrom pipeinfer_cli.engine import abi\n",
    )
    assert check_layout.problems(folder) == []


@pytest.mark.parametrize(
    "text",
    [
        "from pipeinfer_cli.cli import main\n",
        "from pipeinfer_cli.cli.main import app\n",
        "import pipeinfer_cli.cli.main\n",
        "def late():\n    from pipeinfer_cli.cli import main\n",
    ],
)
@pytest.mark.parametrize("module", ["engine/abi", "errors"])
def test_an_upward_import_is_found(folder: Path, module: str, text: str) -> None:
    write(folder, module, text)
    (problem,) = check_layout.problems(folder)
    dotted = module.replace("/", ".")
    assert f"pipeinfer_cli.{dotted} imports pipeinfer_cli.cli.main, which is above it" in problem


@pytest.mark.parametrize(
    "text", ["import time\n", "from random import random\n", "def f():\n    import time as clock\n"]
)
@pytest.mark.parametrize(
    "module", ["scheduler/auto", "scheduler/costs/run_size", "scheduler/__init__"]
)
def test_an_impure_import_of_the_scheduler_is_found(folder: Path, module: str, text: str) -> None:
    for package in ("scheduler", "scheduler/costs"):
        path = folder / check_layout.PACKAGE / package / "__init__.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    write(folder, "engine/abi", text)
    assert check_layout.problems(folder) == [], "others may"
    write(folder, module, text)
    (problem,) = check_layout.problems(folder)
    assert problem.endswith(": scheduler/ is pure")


def test_a_circle_is_found(folder: Path) -> None:
    write(folder, "engine/abi", "from pipeinfer_cli.engine import other\n")
    write(folder, "engine/other", "def late():\n    from pipeinfer_cli.engine.abi import x\n")
    (problem,) = check_layout.problems(folder)
    assert (
        "pipeinfer_cli.engine.abi -> pipeinfer_cli.engine.other -> pipeinfer_cli.engine.abi"
        in problem
    )


def test_crowded_folders_are_found(folder: Path) -> None:
    for index in range(check_layout.MAX_ENTRIES):
        write(folder, f"engine/more{index}", "")
    for index in range(check_layout.MAX_TOP):
        write(folder, f"more{index}", "")
    problems = check_layout.problems(folder)
    assert [problem.rpartition(": ")[2] for problem in problems] == ["at most 20", "at most 14"]
