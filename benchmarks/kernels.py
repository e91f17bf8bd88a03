"""What k tokens at once cost beside one: T(k), our libllama and the unpatched one, in turn.

    python benchmarks/kernels.py [--models smollm2,wide] [--types Q4_0,...] [--threads 1,2]
        [--tokens 1,2,4,8,...] [--rounds 9]

`smollm2` fits the cache of many machines; `wide` (n_embd 2048, random weights) is read from
memory. Every tensor but the norms has the type named. A process per library decodes batches of k
tokens into an empty cache; rounds go through all k, each library in turn, in an order that changes
from round to round, so that whatever else the machine does strikes both alike. Time is the main
thread's CPU time: waiting for the other threads counts, being put aside by the system does not.
T(k) is the median over the rounds of a round's best batch; ours/upstream is the median of the
rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from servers import Server, load_llama, open_context, serve

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))  # where the tests' helpers are

BUILD = ROOT / "build"
N_CTX = 256
WARM_TOKEN, N_BATCHES = 1, 3  # batches timed per round and k; the best counts
TYPES = "Q4_0,Q4_1,Q5_0,Q8_0,Q4_K,Q5_K,Q6_K,F16,BF16,F32"
TOKENS = ",".join(str(k) for k in [*range(1, 17), 24, 32])


def serve_batches(path: str, n_threads: int) -> None:
    """Answers with the milliseconds of the best batch of k tokens."""
    llama = load_llama()
    context = open_context(llama, path, n_threads=n_threads, n_ctx=N_CTX, n_run=N_CTX)
    memory = llama.llama_get_memory(context)

    def measure(n_tokens: int) -> float:
        batch = batch_of(llama, n_tokens)
        return 1000 * min(decode(llama, context, memory, batch) for _ in range(N_BATCHES))

    serve(measure)


def batch_of(llama: Any, n_tokens: int) -> Any:
    """Every row is wanted, as in a run that verifies a draft."""
    batch = llama.llama_batch_init(n_tokens, 0, 1)
    batch.n_tokens = n_tokens
    for i in range(n_tokens):
        batch.token[i], batch.pos[i], batch.logits[i] = WARM_TOKEN + i, i, True
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
    return batch


def decode(llama: Any, context: Any, memory: Any, batch: Any) -> float:
    llama.llama_memory_clear(memory, False)
    start = time.thread_time()
    assert llama.llama_decode(context, batch) == 0
    llama.llama_synchronize(context)
    return time.thread_time() - start


def open_server(lib_dir: Path, model: Path, n_threads: int) -> Server:
    """A process with one of the libraries and one model."""
    return Server(__file__, "--serve", model, n_threads, lib_dir=lib_dir)


def models(names: list[str], type_name: str) -> dict[str, Path]:
    """The models of one type, made when they are missing."""
    from support import smollm2
    from wide_models import WIDE, convert, random_llama

    paths = {}
    for name in names:
        source = smollm2() if name == "smollm2" else BUILD / "wide.gguf"
        if not source.exists():
            random_llama(source, WIDE)
        path = BUILD / f"{source.stem}-{type_name}.gguf"
        paths[name] = path if path.exists() else convert(source, BUILD, type_name)
    return paths


def compare(
    libs: dict[str, Path], model: Path, n_threads: int, tokens: list[int], n_rounds: int
) -> dict[str, dict[int, float]]:
    """Library to k to T(k) in milliseconds."""
    servers = {name: open_server(lib_dir, model, n_threads) for name, lib_dir in libs.items()}
    times: dict[str, dict[int, list[float]]] = {name: {k: [] for k in tokens} for name in servers}
    for index in range(n_rounds):
        for k in tokens:
            for name in list(servers) if index % 2 else reversed(servers):
                times[name][k].append(servers[name].measure(k))
    for server in servers.values():
        server.close()
    ratios = {
        k: median(a / b for a, b in zip(times["ours"][k], times["upstream"][k], strict=True))
        for k in tokens
    }
    medians = {name: {k: median(rows) for k, rows in of_k.items()} for name, of_k in times.items()}
    return {**medians, "ratio": ratios}


def show(label: str, result: dict[str, dict[int, float]]) -> None:
    ours, upstream = result["ours"], result["upstream"]
    print(f"\n{label}\n  k  ours ms  T(k)/T(1)  upstream ms  T(k)/T(1)  ours/upstream")
    for k in ours:
        print(
            f"{k:3d}  {ours[k]:7.2f}  {ours[k] / ours[min(ours)]:9.2f}  {upstream[k]:11.2f}"
            f"  {upstream[k] / upstream[min(ours)]:9.2f}  {result['ratio'][k]:13.3f}",
            flush=True,
        )


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        return serve_batches(sys.argv[2], int(sys.argv[3]))
    from pipeinfer_cli.engine import abi
    from support import REFERENCE_LIB

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default="smollm2,wide")
    parser.add_argument("--types", default=TYPES)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--tokens", default=TOKENS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--ours", type=Path, default=abi.lib_dir(), help="our libraries")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    args = parser.parse_args()
    libs = {"ours": args.ours, "upstream": REFERENCE_LIB}
    tokens = [int(k) for k in args.tokens.split(",")]
    results = {}
    for type_name in args.types.split(","):
        for name, path in models(args.models.split(","), type_name).items():
            for n_threads in args.threads.split(","):
                label = f"{name} {type_name}, {n_threads} thread(s)"
                results[label] = compare(libs, path, int(n_threads), tokens, args.rounds)
                show(label, results[label])
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))
    return None


if __name__ == "__main__":
    main()
