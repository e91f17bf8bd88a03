"""llama.cpp's options: what each is here. One table, for the parser and for docs/cli.md."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import partial


class Use(Enum):
    """What becomes of an option."""

    OURS = "ours"  # an option here, too: only for the table in the docs
    RENAMED = "renamed"  # another spelling of one of ours
    IGNORED = "ignored"  # changes neither text nor what is done: left out with a note
    REFUSED = "refused"  # would change the text, or asks for what is not there


@dataclass(frozen=True, slots=True)
class LlamaOption:
    """A row of the table."""

    names: tuple[str, ...]
    use: Use
    answer: str  # IGNORED, REFUSED: a sentence that continues `-x: `; OURS: what differs
    value: str = ""  # its metavar; empty: a flag
    becomes: str = ""  # RENAMED: our option; {} stands for the value, else it follows as it is
    # Values that ask for what is done anyway: the option is left out without a word.
    silent: tuple[str, ...] = ()
    # The values that may follow, if a value may also be left out (older versions had a flag).
    optional: tuple[str, ...] = ()


def _ours(names: str, answer: str) -> LlamaOption:
    return LlamaOption(tuple(names.split()), Use.OURS, answer)


def _renamed(names: str, becomes: str, value: str = "") -> LlamaOption:
    return LlamaOption(tuple(names.split()), Use.RENAMED, "", value, becomes)


def _answered(
    use: Use, names: str, value: str, answer: str, silent: str = "", optional: str = ""
) -> LlamaOption:
    return LlamaOption(
        tuple(names.split()),
        use,
        answer,
        value,
        silent=tuple(silent.split()),
        optional=tuple(optional.split()),
    )


_ignored = partial(_answered, Use.IGNORED)
_refused = partial(_answered, Use.REFUSED)

GPU = "layers are placed by --gpu-layers and --device"
DRAFT_GPU = "a draft model is on the CPU, or on --draft-device as a whole"
RUN_SIZE = "the scheduler chooses the size of runs, which does not change the text"
HISTORY = (
    "the last stage draws each token from its logits alone, without the tokens before it, so that "
    "every strategy gives the same text: leave it out"
)
SAMPLERS = "the samplers are --top-k, --top-p, --min-p and --temp, in llama.cpp's order"
ROPE = "of the target; drafts rotate as their own GGUF says"
CONTROL = "control vectors are not supported: leave it out"
GROUPS = "positions are not grouped (self-extend): leave it out, or see --rope-scaling"
INTERACTIVE = "use pipeinfer chat"
BINDING = "bind ranks by the launcher, and give each its number of threads with -t"
LOG = "use --log-file FILE for a log per rank, and -v for llama.cpp's messages"
MEDIA = "images, sound and video are not supported: leave it out"
FILES = "ranks map the file and read their own layers; see --no-mmap"
EARLIER = "prompts that begin alike share their cells within one job (--prompts, chat)"
SHARED = "requests (--parallel) share the pipeline and one KV cache"
SERVER = "only pipeinfer serve listens: leave it out, or use that"

OPTIONS = (
    # one of ours, with a difference
    _ours("-m --model", "also a model's name, a folder of shards, or hf:USER/REPO[:QUANT]"),
    _ours("-n --n-predict", "128 by default; -1: what the context leaves; 0 is refused"),
    _ours("-c --ctx-size", "4096 by default; 0: as many as the model was trained for"),
    _ours("-t --threads", "of each rank; a list (8,8,4) gives each rank its own"),
    _ours("-s --seed", "0 by default: the same command gives the same text; -1 draws one"),
    _ours("--temp", "0 (greedy) by default"),
    _ours("-e --escape", "off by default: \\n in a prompt stays as it is"),
    _ours("-p --prompt", "or an argument without -p; of bench: a file of prompts"),
    _ours("-f --file", "loses one final newline, as there"),
    _ours("-ctk --cache-type-k -ctv --cache-type-v", "of the target; as there"),
    _ours(
        "-ctkd --cache-type-k-draft -ctvd --cache-type-v-draft",
        "of draft models; never change the text",
    ),
    _ours("-ngl --gpu-layers", "of each stage; a list (0,99,99) by rank; all by default"),
    _ours("-dev --device", "of each rank; a list is by rank, CUDA0+CUDA1 are two of one rank"),
    _ours("--list-devices", "as there; see pipeinfer doctor, too"),
    _ours("--no-mmap --mlock", "of the target; --mlock reads weights as --no-mmap does"),
    _ours("--numa", "as there, for each rank; auto by default; a rank per NUMA node if not told"),
    _ours("--lora", "of the target; FILE:SCALE, too, and may be repeated"),
    _ours("--rope-scaling --rope-scale --rope-freq-base --rope-freq-scale", ROPE),
    _ours("--yarn-orig-ctx --yarn-ext-factor --yarn-attn-factor", ROPE),
    _ours("--yarn-beta-slow --yarn-beta-fast", ROPE),
    _ours("--chat-template", "a file with a template, not a template's name"),
    _ours("--chat-template-kwargs --reasoning --reasoning-effort", "as there"),
    _ours("--draft-max --draft-min --draft-p-min --draft-p-split", "never change the text"),
    _ours("-v --verbose", "prints llama.cpp's messages, too"),
    _ours("--grammar --json-schema", "also a file; grammars are llguidance's Lark, or GBNF"),
    # other spellings
    _renamed("--n-gpu-layers", "--gpu-layers", "N"),
    _renamed("-devd --device-draft --spec-draft-device", "--draft-device", "NAME"),
    _renamed("--predict", "-n", "N"),
    _renamed("--temperature", "--temp", "T"),
    _renamed("-r --reverse-prompt", "--stop", "TEXT"),
    _renamed("--lora-scaled", "--lora", "FILE:SCALE"),
    _renamed("-sys --system-prompt", "--system", "TEXT"),
    _renamed("--chat-template-file", "--chat-template", "FILE"),
    _renamed("--grammar-file", "--grammar", "FILE"),
    _renamed("-j -jf --json-schema-file", "--json-schema", "TEXT|FILE"),
    _renamed("-rea", "--reasoning", "on|off|auto"),
    _renamed("-st --single-turn", "--chat"),
    _renamed("-np", "--parallel", "N"),
    _renamed("-hf -hfr --hf-repo", "-m=hf:{}", "USER/REPO[:QUANT]"),
    _renamed("-hfd -hfrd --hf-repo-draft --spec-draft-hf", "-md=hf:{}", "USER/REPO[:QUANT]"),
    _renamed("--spec-draft-model", "-md", "FILE"),
    _renamed("-td --threads-draft --spec-draft-threads", "--draft-threads", "N"),
    _renamed("--draft --draft-n --spec-draft-n-max", "--draft-max", "N"),
    _renamed("--draft-n-min --spec-draft-n-min", "--draft-min", "N"),
    _renamed("--spec-draft-p-min", "--draft-p-min", "P"),
    _renamed("--spec-draft-p-split", "--draft-p-split", "P"),
    _renamed("--spec-draft-type-k", "-ctkd", "TYPE"),
    _renamed("--spec-draft-type-v", "-ctvd", "TYPE"),
    _renamed("--log-verbose", "--verbose"),
    # without effect
    _ignored("-ngld --gpu-layers-draft --n-gpu-layers-draft --spec-draft-ngl", "N", DRAFT_GPU, "0"),
    _ignored("-sm --split-mode", "MODE", f"{GPU}; ranks split them by layers", "none layer"),
    _ignored("-ts --tensor-split", "LIST", f"{GPU}; --layer-split 2,1,1 divides them among ranks"),
    _ignored("-mg --main-gpu", "N", GPU),
    _ignored("-ot --override-tensor -otd --override-tensor-draft", "LIST", GPU),
    _ignored("-cmoe --cpu-moe -cmoed --cpu-moe-draft", "", GPU),
    _ignored("-ncmoe --n-cpu-moe -ncmoed --n-cpu-moe-draft -ncffn --n-cpu-ffn", "N", GPU),
    _ignored("-nkvo --no-kv-offload -kvo --kv-offload --op-offload --no-op-offload", "", GPU),
    _ignored("--no-host", "", GPU),
    _ignored("-fit --fit -fitt --fit-target -fitc --fit-ctx", "VALUE", f"{GPU}; see --plan"),
    _ignored(
        "-fa --flash-attn",
        "on|off|auto",
        "flash attention is always on, which exact runs of several tokens need",
        "on auto 1 true enabled -1",
        "on off auto 0 1 -1 true false enabled disabled",
    ),
    _ignored("-b --batch-size -ub --ubatch-size", "N", RUN_SIZE),
    _ignored("-tb --threads-batch -tbd --threads-batch-draft", "N", "-t is for prompts, too"),
    _ignored("--mmap -dio --direct-io", "", FILES),
    _ignored("-lm --load-mode -lzm --lazy-mode", "MODE", FILES, "mmap auto"),
    _ignored("--no-repack -nr --repack", "", "weights are repacked where the bits stay the same"),
    _ignored("--prio --poll --prio-batch --poll-batch", "N", BINDING),
    _ignored("-C --cpu-mask -Cr --cpu-range --cpu-strict", "VALUE", BINDING),
    _ignored("-Cb --cpu-mask-batch -Crb --cpu-range-batch --cpu-strict-batch", "VALUE", BINDING),
    _ignored("-cb --cont-batching -nocb --no-cont-batching", "", SHARED),
    _ignored("-kvu --kv-unified -no-kvu --no-kv-unified", "", SHARED),
    _ignored("--swa-full", "", "caches of sliding windows keep all cells anyway"),
    _ignored("-cram --cache-ram -ctxcp --ctx-checkpoints --cache-reuse", "N", EARLIER),
    _ignored("-dt --defrag-thold", "N", "cells are compacted when a run needs it"),
    _ignored("--warmup --no-warmup", "", "each stage warms up while it loads"),
    _ignored("--jinja", "", "templates are always rendered by Jinja2"),
    _ignored("--no-display-prompt --display-prompt --verbose-prompt", "", "only the text is shown"),
    _ignored("-co --color", "on|off|auto", "the text has no colours", "off auto", "on off auto"),
    _ignored("--simple-io -mli --multiline-input", "", INTERACTIVE),
    _ignored("--perf --no-perf --show-timings --no-show-timings", "", "use --stats for times"),
    _ignored("--log-disable --log-prefix --log-timestamps --log-jsonl", "", LOG),
    _ignored("-lv --verbosity --log-verbosity", "VALUE", LOG),
    _ignored("--log-colors", "on|off|auto", LOG, "auto", "on off auto"),
    _ignored("--check-tensors", "", "values of tensors are not checked"),
    _ignored("--no-escape --no-context-shift --no-prefill-assistant", "", "this is the default"),
    _ignored("--reasoning-format", "FORMAT", "reasoning is part of the text", "none"),
    # refused
    _refused("--repeat-penalty", "X", HISTORY, "1"),
    _refused("--presence-penalty --frequency-penalty", "X", HISTORY, "0"),
    _refused("--repeat-last-n --dry-penalty-last-n", "N", HISTORY, "0"),
    _refused("--dry-multiplier --dry-base --dry-allowed-length", "X", HISTORY, "0"),
    _refused("--dry-sequence-breaker", "TEXT", HISTORY, "none"),
    _refused("-l --logit-bias", "TOKEN+X", "logits are those of the model: leave it out"),
    _refused("--mirostat", "N", HISTORY, "0"),
    _refused("--mirostat-lr --mirostat-ent --adaptive-target --adaptive-decay", "X", HISTORY),
    _refused("--samplers --sampler-seq --sampling-seq", "LIST", f"{SAMPLERS}: leave it out"),
    _refused("--typical --typical-p", "P", SAMPLERS, "1"),
    _refused("--top-nsigma --top-n-sigma", "X", SAMPLERS, "-1"),
    _refused("--xtc-probability --dynatemp-range", "X", SAMPLERS, "0"),
    _refused("--xtc-threshold --dynatemp-exp", "X", SAMPLERS),
    _refused("-gan --grp-attn-n -gaw --grp-attn-w", "N", GROUPS, "1"),
    _refused("--context-shift", "", "a text ends where the context (-c) is full: give a larger -c"),
    _refused("--keep", "N", "a text ends where the context (-c) is full: give a larger -c", "0 -1"),
    _refused("--control-vector --control-vector-scaled", "FILE", CONTROL),
    _refused("--override-kv", "LIST", "metadata is that of the GGUF: write another one"),
    _refused("--rpc", "LIST", "ranks are processes of MPI: give --ranks N, or use mpiexec or srun"),
    _refused("-mu --model-url", "URL", "fetch the file, or name it with a url in models.toml"),
    _refused("-dr --docker-repo", "REPO", "fetch the GGUF and give its path to -m"),
    _refused("-hff --hf-file", "FILE", "give -m hf:USER/REPO/FILE.gguf instead"),
    _refused("-hft --hf-token", "TOKEN", "set HF_TOKEN instead"),
    _refused("--offline", "", "set HF_HUB_OFFLINE=1 instead"),
    _refused("-cnv --conversation -i --interactive -if --interactive-first", "", INTERACTIVE),
    _ignored("-no-cnv --no-conversation", "", "this is the default"),
    _refused("--in-prefix --in-suffix", "TEXT", "the chat template says what surrounds a message"),
    _refused("--in-prefix-bos --no-jinja", "", "the chat template says what surrounds a message"),
    _refused("-sysf --system-prompt-file", "FILE", 'give --system "$(cat FILE)"'),
    _refused("-bf --binary-file", "FILE", "give the prompt as UTF-8 text with -f"),
    _refused("-sp --special", "", "control tokens are not text; --format json has their ids"),
    _refused("-ptc --print-token-count", "N", "use --stats"),
    _refused("--prompt-cache", "FILE", f"{EARLIER}; files of them are not kept"),
    _refused("--prompt-cache-all --prompt-cache-ro", "", f"{EARLIER}; files are not kept"),
    _refused("--reasoning-budget", "N", "give --reasoning off instead of 0", "-1"),
    _refused("--reasoning-budget-message", "TEXT", "give --reasoning off to end it"),
    _refused("-mm --mmproj -mmu --mmproj-url --image --audio --video", "FILE", MEDIA),
    _refused("--spec-type", "TYPE", "give --drafter ngram or model, or --strategy"),
    _refused("-cl --cache-list", "", "use pipeinfer models list"),
    _refused("--host --port --alias -a", "VALUE", SERVER),
    _refused("--api-key", "KEY", "ps would show it: see pipeinfer serve --api-key-file"),
    _refused("-to", "SECONDS", "see --time-limit of pipeinfer serve"),
    _refused("--embedding --embeddings --rerank --reranking", "", "only text is generated"),
)
BY_NAME = {name: each for each in OPTIONS if each.use is not Use.OURS for name in each.names}


def is_silent(option: LlamaOption, value: str) -> bool:
    """Whether the value asks for what is done anyway: 1.0 is 1."""
    return value in option.silent or any(_same_number(value, each) for each in option.silent)


def _same_number(a: str, b: str) -> bool:
    try:
        return float(a) == float(b)
    except ValueError:
        return False


def table() -> str:
    """The table for people, in Markdown."""
    rows = [f"| {_names(each)} | {_here(each)} |" for each in OPTIONS]
    return "\n".join(["| llama.cpp | here |", "|---|---|", *rows])


def _names(option: LlamaOption) -> str:
    *others, last = option.names
    return _code(*others, f"{last} {option.value}".rstrip())


def _here(option: LlamaOption) -> str:
    if option.use is Use.OURS:
        return option.answer
    if option.use is Use.RENAMED:
        ours, _, form = option.becomes.partition("=")
        return _code(f"{ours} {(form or '{}').replace('{}', option.value)}".rstrip())
    is_refused = option.use is Use.REFUSED
    but = f" (but {_code(*option.silent)})" if is_refused and option.silent else ""
    return f"{option.use.value}{but}: {option.answer}"


def _code(*words: str) -> str:
    return ", ".join(f"`{word}`" for word in words).replace("|", "\\|")
