# Copyright Spack Project Developers. See COPYRIGHT file for details.
#
# SPDX-License-Identifier: (Apache-2.0 OR MIT)

from spack_repo.builtin.build_systems.python import PythonPackage

from spack.package import *


class PyLlamaCppPython(PythonPackage):
    """Python bindings of llama.cpp, without a libllama: pipeinfer has its own."""

    homepage = "https://github.com/abetlen/llama-cpp-python"
    pypi = "llama_cpp_python/llama_cpp_python-0.3.36.tar.gz"

    license("MIT", checked_by="pipeinfer")

    version("0.3.36", sha256="832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e")

    depends_on("python@3.8:", type=("build", "run"))
    depends_on("py-scikit-build-core@0.9.2:", type="build")
    depends_on("cmake@3.21:", type="build")
    depends_on("ninja", type="build")
    depends_on("py-diskcache@5.6.1:", type=("build", "run"))
    depends_on("py-jinja2@2.11.3:", type=("build", "run"))
    depends_on("py-numpy@1.20.0:", type=("build", "run"))
    depends_on("py-typing-extensions@4.5.0:", type=("build", "run"))

    # importing it loads a libllama, which comes with pipeinfer
    import_modules = []

    def setup_build_environment(self, env: EnvironmentModifications) -> None:
        env.set("CMAKE_ARGS", "-DLLAMA_BUILD=OFF -DLLAVA_BUILD=OFF")
