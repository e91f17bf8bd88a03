"""What the kernels for several tokens do for the whole: strategies with our ggml-cpu and without.

    python benchmarks/kernels_whole.py UPSTREAM_LIBS MODEL.gguf DRAFT.gguf [rounds] [options]

Each round runs `pipeinfer bench` twice, with the installed libraries and with their libggml-cpu
replaced by the unpatched one; the order changes from round to round. Shows the median tokens/s of
each strategy, ours/upstream as the median of the rounds' ratios, and whether all texts were those
of plain decoding with the same libraries. Options are those of bench.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from pipeinfer_cli.engine import abi

STRATEGIES = "iterative,speculative,pipeinfer"
OPTIONS = ["--draft-max", "4,8", "-n", "48", "-r", "1", "-t", "1", "-c", "1024", "-o", "json"]


def bench(lib_dir: Path, model: str, draft: str, options: list[str]) -> dict[str, Any]:
    """Rows of one call, by strategy and draft length."""
    command = [str(Path(sys.executable).with_name("pipeinfer")), "bench", "-m", model, "-md", draft]
    done = subprocess.run(
        [*command, "--strategy", STRATEGIES, *OPTIONS, *options],
        env={**os.environ, "PIPEINFER_LIB_DIR": str(lib_dir)},
        check=True,
        stdout=subprocess.PIPE,
    )
    rows = json.loads(done.stdout)
    return {f"{row['strategy']} {row['draft_max'] or ''}".strip(): row for row in rows}


def main() -> None:
    upstream, model, draft = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    n_rounds = int(sys.argv[4]) if len(sys.argv) > 4 else 3
    # beside ours: libpipeinfer finds MPI relative to where it lies
    with tempfile.TemporaryDirectory(prefix=".lib-", dir=abi.lib_dir().parent) as folder:
        before = Path(shutil.copytree(abi.lib_dir(), folder, dirs_exist_ok=True))
        for path in before.glob("libggml-cpu*.so"):
            path.unlink()
        shutil.copy(upstream / "libggml-cpu.so", before / "libggml-cpu-unpatched.so")
        libs = {"ours": abi.lib_dir(), "upstream": before}
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in libs}
        for index in range(n_rounds):
            for name in list(libs) if index % 2 else reversed(libs):
                found[name].append(bench(libs[name], model, draft, sys.argv[5:]))
    print("strategy         upstream tok/s  ours tok/s  ours/upstream  same texts: upstream, ours")
    for variant in found["ours"][0]:
        speeds = {name: [row[variant]["median_ts"] for row in found[name]] for name in found}
        ratio = median(a / b for a, b in zip(speeds["ours"], speeds["upstream"], strict=True))
        same = [all(row[variant]["identical"] for row in found[name]) for name in reversed(found)]
        print(
            f"{variant:16s} {median(speeds['upstream']):14.2f}  {median(speeds['ours']):10.2f}"
            f"  {ratio:13.3f}  {', '.join('yes' if each else 'NO' for each in same)}"
        )


if __name__ == "__main__":
    main()
