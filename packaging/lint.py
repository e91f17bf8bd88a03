"""`make lint-packaging`: the recipes, as the programs that build from them read them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import rattler_build
from easybuild.framework.easyconfig.parser import EasyConfigParser
from easybuild.framework.easyconfig.style import check_easyconfigs_style
from easybuild.tools.options import set_up_configuration
from spython.main.parse.parsers import SingularityParser

HERE = Path(__file__).parent
EASYCONFIGS = Path(sys.prefix) / "easybuild" / "easyconfigs"
# An extension of a toolchain has modules of those below it.
BELOW = {"foss": ("gompi", "gfbf"), "gompi": ("GCC",), "gfbf": ("GCC",), "GCC": ("GCCcore",)}
GENERATIONS = {"2025a": "14.2.0"}  # of the GCC in a toolchain


def conda() -> list[str]:
    """rattler-build's own parser, for all variants."""
    recipe = rattler_build.Stage0Recipe.from_file(HERE / "conda/recipe.yaml")
    variants = rattler_build.VariantConfig.from_file(HERE / "conda/variants.yaml")
    found = [str(each.recipe.to_dict()["build"]["string"]) for each in recipe.render(variants)]
    print(f"conda: {len(found)} variants: {', '.join(found)}")
    return [] if len(set(found)) == 4 else ["conda: there must be four variants"]


def easybuild() -> list[str]:
    """EasyBuild's own parser and style check; and whether its release has what they depend on."""
    # No module is loaded: it need only have a name.
    options = ["--modules-tool=EnvironmentModules", "--module-syntax=Tcl"]
    set_up_configuration(
        args=[*options, "--allow-use-as-root-and-accept-consequences"], silent=True
    )
    paths = sorted((HERE / "easybuild").glob("*.eb"))
    names = {path.name for path in (*paths, *EASYCONFIGS.rglob("*.eb"))}
    wrong = []
    if check_easyconfigs_style([str(path) for path in paths]):
        wrong.append("easybuild: style")
    for path in paths:
        config = EasyConfigParser(str(path)).get_config_dict()
        chain = _toolchains(config["toolchain"]["name"], config["toolchain"]["version"])
        wanted = [*config.get("builddependencies", ()), *config["dependencies"]]
        for name, version, *suffix in wanted:
            files = {f"{name}-{version}-{each}{''.join(suffix)}.eb" for each in chain}
            if not names & files:
                wrong.append(f"easybuild: {path.name}: no easyconfig of {name} {version}")
        print(f"easybuild: {path.name}: {len(wanted)} dependencies")
    return wrong


def _toolchains(name: str, version: str) -> list[str]:
    """Of a module's dependencies, as file names have them: foss-2025a, ..., GCCcore-14.2.0."""
    inner = GENERATIONS.get(version, version)
    found = [f"{name}-{inner if name.startswith('GCC') else version}"]
    return found + [each for below in BELOW.get(name, ()) for each in _toolchains(below, version)]


def apptainer() -> list[str]:
    """The parser of Singularity's Python client."""
    recipe = SingularityParser(str(HERE / "apptainer/pipeinfer.def")).parse()["spython-base"]
    print(f"apptainer: from {recipe.fromHeader}, {len(recipe.install)} lines of %post")
    return [] if recipe.install and recipe.test and recipe.cmd else ["apptainer: sections lack"]


def spack() -> list[str]:
    """Style only: Spack is not on the package index."""
    paths = sorted((HERE / "spack").rglob("package.py"))
    checks = ["--max-line-length=119", "--ignore=E129,W503"]
    done = subprocess.run(
        [sys.executable, "-m", "pycodestyle", *checks, *paths],
        capture_output=True,
        text=True,
        check=False,
    )
    for path in paths:
        compile(path.read_text(), path, "exec")
    print(f"spack: style of {len(paths)} packages")
    return done.stdout.splitlines()


def main() -> int:
    """1 if anything is wrong."""
    checks: tuple[Callable[[], list[str]], ...] = (conda, easybuild, apptainer, spack)
    wrong = [line for check in checks for line in check()]
    print("\n".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
