# What measures and asserts nothing. `make help-bench` lists the targets; variables after a colon go to the program,
# as in: make bench BENCH_ARGS="--ranks 3 -n 64 -r 3 -o json"
BENCH_RANKS  ?= 2
BENCH_STAGES ?= 8
BENCH_ROUNDS ?= 3
SOAK_MINUTES ?= 20
SOAK_RANKS   ?= 3
SOAK_MODEL   ?= build/soak.gguf
LARGE        ?= build/large

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

bench-mixture: EXTRAS := [test]
bench-mixture: build build/mixture.gguf ## strategies with a mixture of experts, where verifying costs much: BENCH_ARGS as for bench
	$(BIN)/pipeinfer bench -m build/mixture.gguf --synth-acceptance 0.5:informed,0.8:informed,0.95:informed --ranks 2 -t 1 \
	    --strategy iterative,speculative,pipeinfer,pipeinfer:paper,auto -n 96 -r 3 $(BENCH_ARGS)

build/mixture.gguf: | build
	$(BIN)/python benchmarks/mixture.py $(SMOLLM2) $@

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

bench-choices: EXTRAS := [test]
bench-choices: build ## what pipeinfer chooses against settings by hand, simulated, half an hour: CHOICES="--stages 8"
	$(BIN)/python benchmarks/choices.py $(CHOICES)

bench-simulation: EXTRAS := [test]
bench-simulation: build build/tiny.gguf ## simulated against emulated clusters, ten minutes: SIMULATION="--profiles cpu70b-8-ib"
	$(BIN)/python benchmarks/simulation.py build/tiny.gguf --launch "$(BIN)/mpiexec -n {}" $(SIMULATION)

bench-table: EXTRAS := [test]
bench-table: build ## the tables of docs/benchmarks.md, simulated: TABLES="--tables strategies,networks"
	$(BIN)/python benchmarks/table.py $(BIN)/pipeinfer $(TABLES)

bench-table-emulated: EXTRAS := [test]
bench-table-emulated: build build/tiny.gguf ## strategies on emulated clusters, ten minutes: BENCH_STAGES=8
	$(BIN)/python benchmarks/table.py $(BIN)/pipeinfer --emulate build/tiny.gguf \
	    --tables strategies --stages $(BENCH_STAGES)

ACCEPTANCE_FOLDER ?= build/acceptance

bench-acceptance: EXTRAS := [test]
bench-acceptance: build ## what real drafters' candidates are worth, 20 minutes: ACCEPTANCE="--tokens 20"
	$(BIN)/python benchmarks/acceptance.py $(SMOLLM2) $(ACCEPTANCE_FOLDER) $(ACCEPTANCE)

bench-confidence: bench-acceptance ## how well corrected probabilities predict what is accepted: ACCEPTANCE="--tokens 60 --drafts Q8_0,Q4_0"
	$(BIN)/python benchmarks/confidence.py $(ACCEPTANCE_FOLDER) $(CONFIDENCE)

pictures: EXTRAS := [test]
pictures: build build/tiny.gguf ## emulated runs as pictures and as a trace, in build/pictures
	mkdir -p build/pictures
	$(BIN)/pipeinfer generate -m build/tiny.gguf --emulate cpu70b-8-ib --synth-acceptance 0.8 --strategy pipeinfer -t 1 \
	    -n 64 --stats --trace build/pictures/run.json --plot build/pictures/run.svg "$(PROMPT)" >build/pictures/run.txt
	$(BIN)/mpiexec -n 9 $(BIN)/python benchmarks/pictures.py build/tiny.gguf flat-8 build/pictures

build/tiny.gguf: | build
	$(BIN)/python benchmarks/tiny.py $(SMOLLM2) $@

bench-kernels: EXTRAS := [test]
bench-kernels: reference build ## what k tokens at once cost, beside the unpatched llama.cpp: KERNELS=--types=Q4_0
	$(BIN)/python benchmarks/kernels.py $(KERNELS)

bench-decode: EXTRAS := [test]
bench-decode: reference build ## what a token costs beside the unpatched library, in bursts: DECODE="--types F16"
	$(BIN)/python benchmarks/decode.py $(DECODE)

bench-draft: EXTRAS := [test]
bench-draft: build ## what a batch of tree nodes costs a draft model, against one by one: DRAFT="--threads 1 --rounds 5"
	$(BIN)/python benchmarks/draft.py $(SMOLLM2) $(DRAFT)

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

bench-serve: EXTRAS := [test]
bench-serve: upstream-tools build ## servers with 1, 4, 8 clients, beside llama-server: SERVE="--rounds 1 --only pipeinfer"
	$(BIN)/python benchmarks/serve.py --model $(SMOLLM2) --pipeinfer $(BIN)/pipeinfer \
	    --llama-server build/tools/bin/llama-server $(SERVE)

bench-install: wheel sdist ## from nothing to the first token on three ranks, from source, sdist and wheels: INSTALL="--wheels dist"
	$(BIN)/python benchmarks/install.py $(or $(INSTALL),--source . --sdist dist --wheels dist)

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

soak: EXTRAS := [test]
soak: build $(SOAK_MODEL) ## random requests to one pipeline: memory, messages, KV cells: SOAK_MINUTES=20 SOAK_RANKS=3
	$(BIN)/mpiexec -n $(SOAK_RANKS) $(BIN)/python benchmarks/soak.py $(SOAK_MODEL) $(SOAK_MINUTES)

# Hardly any compute: as many requests as can be.
build/soak.gguf: | build
	PYTHONPATH=tests/helpers $(BIN)/python -c "import sys, pathlib, architectures; \
	    architectures.TINY_MODELS[0].write(pathlib.Path(sys.argv[1]))" $@

large: EXTRAS := [test]
large: build ## a GGUF of 142 GB in shape, all holes: time and memory of show, --plan, shard, loading: LARGE=build/large
	$(BIN)/python benchmarks/large.py make $(LARGE)
	$(BIN)/python benchmarks/large.py measure $(LARGE)
