"""What a prompt costs: seconds to decode it, our libllama and the unpatched one, in turn.

    python benchmarks/prompts.py [--models wide,deep] [--types Q4_0,...] [--threads 1,2]
        [--tokens 512,1950] [--runs 512] [--rounds 5]

`wide` has 3 layers of n_embd 2048, `deep` 60 layers as narrow as SmolLM2-135M's, both with random
weights of the type named. The unpatched library takes runs (ubatches) of 512 tokens, its default;
ours those of --runs. A process for each decodes the whole prompt into an empty cache, in turn, in
an order that changes from round to round. Seconds are wall-clock time; the ratio is the median of
the rounds' ratios, above 1 where ours is faster.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from statistics import median

from servers import Server, load_llama, open_context, serve

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))  # where the models' makers are

BUILD = ROOT / "build"
N_RUN_UNPATCHED = 512
TYPES = "Q4_0,Q4_K,Q8_0,F16"


def serve_prompts(path: str, n_threads: int, n_ctx: int, n_run: int) -> None:
    """Answers with the seconds that a prompt of that length took."""
    llama = load_llama()
    context = open_context(llama, path, n_threads=n_threads, n_ctx=n_ctx, n_run=n_run)
    model = llama.llama_get_model(context)
    n_vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))

    def measure(n_tokens: int) -> float:
        tokens = (llama.llama_token * n_tokens)(
            *(1 + i * 7919 % (n_vocab - 1) for i in range(n_tokens))
        )
        llama.llama_memory_clear(llama.llama_get_memory(context), False)
        start_s = time.perf_counter()
        assert llama.llama_decode(context, llama.llama_batch_get_one(tokens, n_tokens)) == 0
        llama.llama_synchronize(context)
        return time.perf_counter() - start_s

    serve(measure)


def model_path(name: str, type_name: str) -> Path:
    """A model of one type, made if it is missing."""
    from random_gguf import Shape
    from wide_models import WIDE, convert, random_llama

    shapes = {
        "wide": WIDE,
        "deep": Shape(n_layer=60, n_embd=576, n_ff=1536, n_vocab=2048, n_head=9, n_head_kv=3),
    }
    source = BUILD / f"{name}.gguf"
    path = BUILD / f"{name}-{type_name}.gguf"
    if not source.exists():
        random_llama(source, shapes[name])
    return path if path.exists() else convert(source, BUILD, type_name)


def compare(args: argparse.Namespace, model: Path, n_threads: int) -> None:
    """Prints a line of the table for each number of tokens and length of our runs."""
    n_ctx = -(-max(args.tokens) // 256) * 256
    servers = {
        run: Server(
            __file__,
            *("--serve", model, n_threads, n_ctx, run or N_RUN_UNPATCHED),
            lib_dir=args.ours if run else args.unpatched,
        )
        for run in [0, *args.runs]  # 0: the unpatched library
    }
    for n_tokens in args.tokens:
        seconds: dict[int, list[float]] = {run: [] for run in servers}
        for index in range(args.rounds):
            for run in list(servers) if index % 2 else reversed(servers):
                seconds[run].append(servers[run].measure(n_tokens))
        for run in args.runs:
            ratio = median(a / b for a, b in zip(seconds[0], seconds[run], strict=True))
            label = f"{model.stem} | {n_threads} | {n_tokens} | {run}"
            times = " | ".join(summary(seconds[which]) for which in (run, 0))
            print(f"| {label} | {times} | {ratio:.2f} |", flush=True)
    for server in servers.values():
        server.close()


def summary(seconds: list[float]) -> str:
    return f"{median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f})"


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        return serve_prompts(sys.argv[2], *map(int, sys.argv[3:6]))
    from pipeinfer_cli.engine import abi
    from support import REFERENCE_LIB

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default="wide,deep")
    parser.add_argument("--types", default=TYPES)
    parser.add_argument("--threads", default=[1, 2], type=numbers)
    parser.add_argument("--tokens", default=[512, 1950], type=numbers, help="of the prompts")
    parser.add_argument("--runs", default=[512], type=numbers, help="lengths of our runs")
    parser.add_argument("--rounds", default=5, type=int)
    parser.add_argument("--ours", type=Path, default=abi.lib_dir(), help="our libraries")
    parser.add_argument("--unpatched", type=Path, default=REFERENCE_LIB, help="the others")
    args = parser.parse_args()
    print("Load average at the beginning:", *(f"{load:.2f}" for load in os.getloadavg()))
    print("\n| model | threads | tokens | our runs | ours, s | unpatched, s | unpatched/ours |")
    print("| --- " * 7 + "|")
    for type_name in args.types.split(","):
        for name in args.models.split(","):
            for n_threads in args.threads:
                compare(args, model_path(name, type_name), n_threads)
    print("\nLoad average at the end:", *(f"{load:.2f}" for load in os.getloadavg()))
    return None


if __name__ == "__main__":
    main()
