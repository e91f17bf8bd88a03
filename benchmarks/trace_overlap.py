"""One generation in which drafter and stages work at the same time, and a cancel hits: a trace.

    python benchmarks/trace_overlap.py TARGET.gguf DRAFT.gguf OUT

Three ranks: the head, which runs DRAFT with four layers left out (a draft model that is often
wrong), and two stages with TARGET. Writes OUT.json and OUT.svg; checks that the trace keeps to its
format and agrees with --stats; prints the moments when a token is drafted, both stages compute, and
a cancel is sent that aborts one of them. Fails if there is none.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))

from small_models import without_layers
from support import pipeinfer
from trace_check import check_agrees, check_format, load, overlaps

PROMPT = "Once upon a time, in a small village by the sea,"
N_SHOWN = 5
LEFT_OUT = {9, 14, 19, 24}


def main() -> None:
    target, source, out = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    draft = without_layers(source, out.with_suffix(".gguf"), LEFT_OUT)
    trace_file, plot_file = out.with_suffix(".json"), out.with_suffix(".svg")
    command = pipeinfer(
        *("generate", "-m", str(target), "-md", str(draft), "--strategy", "pipeinfer"),
        *("--ranks", "3", "-t", "1", "-n", "96", "--draft-max", "2", "--format", "json"),
        *("--stats", "--trace", str(trace_file), "--plot", str(plot_file), PROMPT),
    )
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=300)
    draft.unlink()
    trace, stats = load(trace_file), json.loads(done.stdout)["stats"]
    check_format(trace)
    check_agrees(trace, stats)
    busy = ", ".join(f"{each:.1f}" for each in stats["busy_ms"])
    print(
        f"{trace_file} agrees with --stats: {stats['n_runs']} runs launched, "
        f"{stats['n_completed']} completed, {stats['n_cancelled']} cancelled, "
        f"{stats['n_aborted']} aborted in mid-compute; {stats['n_drafted']} tokens drafted, "
        f"{stats['n_accepted']} accepted; stages busy for {busy} ms"
    )
    moments = overlaps(trace)
    for at_us, line in moments[:N_SHOWN]:
        print(f"at {at_us / 1000:.1f} ms: {line}")
    print(f"{len(moments)} moments with a draft, both stages and a cancel in mid-compute")
    if not moments:
        sys.exit("no such moment: run it again, on cores that are free")


if __name__ == "__main__":
    main()
