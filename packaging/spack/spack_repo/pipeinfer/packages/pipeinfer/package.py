# Copyright Spack Project Developers. See COPYRIGHT file for details.
#
# SPDX-License-Identifier: (Apache-2.0 OR MIT)

from spack_repo.builtin.build_systems.python import PythonPackage

from spack.package import *


class Pipeinfer(PythonPackage):
    """Language models split by layers over MPI ranks, on the command line, with speculation."""

    # Nothing is published yet: URL and checksum are placeholders.
    homepage = "https://example.invalid/pipeinfer"
    url = "https://example.invalid/pipeinfer/pipeinfer-0.1.0.tar.gz"

    license("MIT", checked_by="pipeinfer")

    version("0.1.0", sha256="0000000000000000000000000000000000000000000000000000000000000000")

    # llama.cpp is in its bindings' sdist, which the build unpacks and patches.
    resource(
        name="llama-cpp-python",
        url="https://files.pythonhosted.org/packages/source/l/llama_cpp_python/llama_cpp_python-0.3.36.tar.gz",
        sha256="832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
        expand=False,
        placement="llama-cpp-python",
    )

    depends_on("c", type="build")
    depends_on("cxx", type="build")
    depends_on("cmake@3.21:", type="build")
    depends_on("ninja", type="build")
    depends_on("py-scikit-build-core@0.11:", type="build")

    depends_on("mpi")
    depends_on("python@3.10:", type=("build", "run"))
    depends_on("py-llama-cpp-python@0.3.36", type=("build", "run"))
    depends_on("py-jinja2@3.1:", type=("build", "run"))
    depends_on("py-mpi4py@4.1:", type=("build", "run"))
    depends_on("py-numpy@1.24:", type=("build", "run"))
    depends_on("py-prompt-toolkit@3.0.40:", type=("build", "run"))
    depends_on("py-rich@13.0:", type=("build", "run"))
    depends_on("py-tomli@2.0:", when="^python@:3.10", type=("build", "run"))
    depends_on("py-typer@0.12:0.27", type=("build", "run"))

    def patch(self):
        # The MPI is Spack's, not the wheel of mpich.
        filter_file(r'^ *"mpich>=.*\n', "", "pyproject.toml")

    def setup_build_environment(self, env: EnvironmentModifications) -> None:
        folder = join_path(self.stage.source_path, "llama-cpp-python")
        env.set("PIPEINFER_UPSTREAM_SDIST", join_path(folder, "llama_cpp_python-0.3.36.tar.gz"))
        # One installation may serve nodes of several generations.
        env.set("CMAKE_ARGS", "-DPIPEINFER_CPU_VARIANTS=all")

    @run_after("install")
    @on_package_attributes(run_tests=True)
    def check_install(self):
        Executable(self.prefix.bin.pipeinfer)("doctor")
