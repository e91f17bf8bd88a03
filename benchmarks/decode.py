"""What a token costs in plain decoding: unpatched library, our library, and our engine, in turn.

    python benchmarks/decode.py [--models deep,wide] [--types F16,Q8_0,...] [--threads 1,2]
        [--tokens 12] [--rounds 15] [--ways library,engine,engine:upstream,read:huge]

Models are those of benchmarks/beside. A process for each decodes a burst of tokens, one at a time,
while the others sleep; rounds rotate the order. `engine` is a stage of pipeinfer that holds all
layers, its scheduler aside, with the kernels for one column that it chose itself, or with those of
`engine:ours` or `engine:upstream`; `read` is the same as with --no-mmap; `:huge` has malloc ask for
huge pages; `engine@FOLDER` has the libraries of another build. `library` calls llama_decode with
llama.cpp's own threads.
Ratios are medians of the rounds' ratios, above 1 where ours is faster; quartiles beside.
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import product
from pathlib import Path
from statistics import median, quantiles

from servers import Server, load_llama, open_context, serve

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))  # where the models' makers are
N_CTX = 1024
WAIT_S = 60
WAYS = "library,engine"  # of ours
HOW = {  # variables of the environment
    "": {},
    "ours": {"GGML_ONE_COLUMN": "ours"},
    "upstream": {"GGML_ONE_COLUMN": "upstream"},
    "huge": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
}


def serve_library(path: str, n_threads: int) -> None:
    """llama_decode, token by token."""
    llama = load_llama()
    context = open_context(llama, path, n_threads=n_threads, n_ctx=N_CTX)
    memory = llama.llama_get_memory(context)

    def measure(n_tokens: int) -> float:
        llama.llama_memory_clear(memory, False)
        token = (llama.llama_token * 1)(1)
        for index in range(n_tokens + 1):
            if index == 1:
                start_s = time.perf_counter()
            token[0] = 1 + index
            assert llama.llama_decode(context, llama.llama_batch_get_one(token, 1)) == 0
            llama.llama_synchronize(context)
        return (time.perf_counter() - start_s) / n_tokens

    serve(measure)


def serve_engine(path: str, n_threads: int, *, reads_weights: bool) -> None:
    """Runs of one token through a pipeinfer stage."""
    from pipeinfer_cli.engine.config import EngineConfig
    from pipeinfer_cli.engine.engine import Engine
    from pipeinfer_cli.models.gguf.info import read_model_info
    from pipeinfer_cli.scheduler.runs import KvKind, KvOp, Run, RunToken

    config = EngineConfig(
        model_path=Path(path),
        layer_first=0,
        layer_last=read_model_info(Path(path)).n_layer,
        n_ctx=N_CTX,
        n_cells=N_CTX,
        n_batch=32,
        n_threads=n_threads,
        has_own_cores=True,
        reads_weights=reads_weights,
    )
    run_id = 1
    with Engine(config) as engine:

        def measure(n_tokens: int) -> float:
            nonlocal run_id
            for index in range(n_tokens + 1):
                if index == 1:
                    start_s = time.perf_counter()
                clear = () if index else (KvOp(kind=KvKind.REMOVE, seq_src=-1),)
                token = RunToken(id=1 + index, position=index, seq_ids=(0,), want=True)
                engine.submit(Run(run_id=run_id, tokens=(token,), kv_ops=clear))
                run_id += 1
                assert engine.wait(WAIT_S)
            return (time.perf_counter() - start_s) / n_tokens

        serve(measure)


def compare(args: argparse.Namespace, label: str, model: Path, n_threads: int) -> None:
    """Prints a line of the table for each of ours."""
    servers = {
        "unpatched": Server(__file__, "--serve-library", model, n_threads, lib_dir=args.unpatched)
    }
    for name in args.ways:
        text, _, folder = name.partition("@")
        way, _, how = text.partition(":")
        lib_dir = Path(folder).resolve() if folder else args.ours
        env = {**HOW[how], "PIPEINFER_LIB_DIR": str(lib_dir)}
        servers[name] = Server(__file__, f"--serve-{way}", model, n_threads, lib_dir=lib_dir, **env)
    names = list(servers)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for index in range(args.rounds):
        for name in names[index % len(names) :] + names[: index % len(names)]:
            seconds[name].append(servers[name].measure(args.tokens))
    for name in names[1:]:
        ratios = [a / b for a, b in zip(seconds["unpatched"], seconds[name], strict=True)]
        low, middle, high = quantiles(ratios, n=4)
        times = " | ".join(f"{1000 * median(seconds[way]):.2f}" for way in (name, "unpatched"))
        print(
            f"| {label}, {n_threads} thread(s) | {name} | {times} "
            f"| {middle:.3f} ({low:.3f} to {high:.3f}) |",
            flush=True,
        )
    for server in servers.values():
        server.close()


def main() -> None:
    if sys.argv[1:2] == ["--serve-library"]:
        return serve_library(sys.argv[2], int(sys.argv[3]))
    if sys.argv[1:2] in (["--serve-engine"], ["--serve-read"]):
        return serve_engine(sys.argv[2], int(sys.argv[3]), reads_weights="read" in sys.argv[1])
    from beside import models
    from pipeinfer_cli.engine import abi
    from support import REFERENCE_LIB

    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=lambda text: text.split(","), default=["deep", "wide"])
    parser.add_argument("--types", type=lambda text: text.split(","), default=list(models.TYPES))
    parser.add_argument("--threads", type=lambda text: text.split(","), default=["1", "2"])
    parser.add_argument("--ways", type=lambda text: text.split(","), default=WAYS.split(","))
    parser.add_argument("--tokens", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--unpatched", type=Path, default=REFERENCE_LIB)
    parser.add_argument("--ours", type=Path, default=abi.lib_dir())
    args = parser.parse_args()
    pipeinfer = str(Path(sys.executable).with_name("pipeinfer"))
    print("| | ours | ms per token | unpatched | ratio (quartiles) |\n|---|---|---|---|---|")
    for name, file_type in product(args.models, args.types):
        model = models.target(pipeinfer, name, file_type)
        for n_threads in args.threads:
            compare(args, f"{name} {file_type}", model, int(n_threads))
    return None


if __name__ == "__main__":
    main()
