"""Where the time of a batch of k tokens goes: the graph's work by kind, as perf samples it.

    python benchmarks/graph_profile.py [--models smollm2,wide] [--types Q4_0,...] [--tokens 1,...]

Needs Linux's `perf`. One thread, after a text of no tokens: attention is that of the batch itself.
Milliseconds are CPU time: the share of the samples, of the best batch. Functions without a name,
as installed libraries have them, are the kernels' own: those of libggml-cpu count as products.
"""

from __future__ import annotations

import argparse
import re
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from kernels import models, open_server
from pipeinfer_cli.engine import abi
from servers import Server

SECONDS = 4.0  # of sampling, for each number of tokens
# The first kind whose pattern is in a symbol's name counts. Keys are F16, so that vec_dot_f16 is
# attention's, unless the weights are F16, too.
KINDS = {
    "attention": r"flash_attn|vec_mad_f16|vec_scale_f16|vec_dot_f16|soft_max",
    "inputs as the kernels want them": r"quantize|fp32_to|from_float|ggml_compute_forward_mul_mat",
    "matrix products": r"libggml-cpu\S* +\[.\] 0x|vec_dot|gemv|gemm|tinyBLAS",
}
REST = "all else"


def sampled(server: Server, n_tokens: int) -> dict[str, float]:
    """Share of the samples by kind, while batches of n tokens are decoded."""
    with tempfile.NamedTemporaryFile(suffix=".perf") as file:
        command = ["perf", "record", "-q", "-e", "cpu-clock", "-F", "499", "-o", file.name]
        perf = subprocess.Popen([*command, "-p", str(server.pid)], stderr=subprocess.DEVNULL)
        end_s = time.monotonic() + SECONDS
        while time.monotonic() < end_s:
            server.measure(n_tokens)
        perf.send_signal(signal.SIGINT)
        perf.wait()
        report = subprocess.run(
            ["perf", "report", "-i", file.name, "--stdio", "-F", "overhead,dso,sym"],
            check=True,
            capture_output=True,
            text=True,
        )
    shares = dict.fromkeys([*KINDS, REST], 0.0)
    for share, symbol in re.findall(r"^ +([\d.]+)% +(\S+ +\[.\] .*)$", report.stdout, re.MULTILINE):
        kind = next((kind for kind, names in KINDS.items() if re.search(names, symbol)), REST)
        shares[kind] += float(share)
    total = sum(shares.values())
    return {kind: share / total for kind, share in shares.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default="smollm2,wide")
    parser.add_argument("--types", default="Q4_0,Q8_0")
    parser.add_argument("--tokens", default="1,2,4,8")
    parser.add_argument("--lib", type=Path, default=abi.lib_dir())
    args = parser.parse_args()
    kinds = [*KINDS, REST]
    print(f"| model | tokens | ms | {' | '.join(kinds)} |")
    print("| --- " * (3 + len(kinds)) + "|")
    for type_name in args.types.split(","):
        for name, path in models(args.models.split(","), type_name).items():
            server = open_server(args.lib, path, 1)
            for n_tokens in map(int, args.tokens.split(",")):
                best_ms = min(server.measure(n_tokens) for _ in range(5))
                shares = sampled(server, n_tokens)
                cells = [f"{best_ms * share:.2f} ({share:.0%})" for share in shares.values()]
                label = f"{name} {type_name} | {n_tokens} | {best_ms:.2f}"
                print(f"| {label} | {' | '.join(cells)} |", flush=True)
            server.close()


if __name__ == "__main__":
    main()
