# Copyright Spack Project Developers. See COPYRIGHT file for details.
#
# SPDX-License-Identifier: (Apache-2.0 OR MIT)

from spack_repo.builtin.build_systems.python import PythonPackage

from spack.package import *

# llama.cpp's options by the features of a target, as Spack calls them.
GGML_FEATURES = {
    "GGML_SSE42": "sse4_2",
    "GGML_AVX": "avx",
    "GGML_F16C": "f16c",
    "GGML_AVX2": "avx2",
    "GGML_BMI2": "bmi2",
    "GGML_FMA": "fma",
    "GGML_AVX512": "avx512bw",
    "GGML_AVX512_VBMI": "avx512vbmi",
    "GGML_AVX512_VNNI": "avx512_vnni",
    "GGML_AVX512_BF16": "avx512_bf16",
}


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
        filter_file(r'"mpich>=[^"]*", ', "", "pyproject.toml")

    def setup_build_environment(self, env: EnvironmentModifications) -> None:
        env.set("PIPEINFER_MPI", "system")
        folder = join_path(self.stage.source_path, "llama-cpp-python")
        env.set("PIPEINFER_UPSTREAM_SDIST", join_path(folder, "llama_cpp_python-0.3.36.tar.gz"))
        # The compiler wrappers say for which CPU; of that, llama.cpp must know what there is.
        args = ["-DGGML_NATIVE=OFF", f"-DMPI_HOME={self.spec['mpi'].prefix}"]
        if self.spec.satisfies("target=x86_64:"):
            target = self.spec.target
            args += [
                f"-D{option}={'ON' if feature in target else 'OFF'}"
                for option, feature in GGML_FEATURES.items()
            ]
        env.set("CMAKE_ARGS", " ".join(args))

    @run_after("install")
    @on_package_attributes(run_tests=True)
    def check_install(self):
        Executable(self.prefix.bin.pipeinfer)("doctor")
