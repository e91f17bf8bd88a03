"""Pictures of strategies on an emulated cluster, one below the other, and of simulated sweeps.

    mpiexec -n N python benchmarks/pictures.py MODEL.gguf PROFILE FOLDER

Writes strategies.svg and .png (the same text, with drafts that are right 2 times out of 3, by
synchronous and asynchronous chains, and by the trees that `pipeinfer` chooses), rate.svg and
n_stages.svg (tokens/s of all strategies).
"""

from __future__ import annotations

import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

from cluster import Case, request_of, run
from pipeinfer_cli.cluster import profile_toml
from pipeinfer_cli.cluster.profile import Profile
from pipeinfer_cli.cluster.simulate import SimulateConfig, predictions
from pipeinfer_cli.runtime.head import Head
from pipeinfer_cli.scheduler.metrics import measure
from pipeinfer_cli.trace.gantt import Chart, plot_runs
from pipeinfer_cli.trace.observe import RequestTracer
from pipeinfer_cli.trace.recorder import Recorder
from pipeinfer_cli.trace.sweep import plot_sweep
from pipeinfer_cli.trace.timeline import timeline

ACCEPTANCE = "0.66:informed"
# Titles, strategies, and with which --draft-max; None: what to draft is chosen.
SIDE_BY_SIDE = (
    ("speculative, chains of 4", "speculative", 4),
    ("pipeinfer, chains of 4", "pipeinfer", 4),
    ("pipeinfer as it comes: trees", "pipeinfer", None),
)
N_PREDICT = 48


def recorded(
    head: Head, profile: Profile, title: str, strategy: str, draft_max: int | None
) -> Chart:
    """One text, and when what happened."""
    case = Case(
        strategy=strategy,
        draft_max=draft_max,
        acceptance=ACCEPTANCE,
        n_predict=N_PREDICT,
        seed=1,
    )
    request = request_of(case)
    info = head.info(request)
    recorder = Recorder(n_prompt=info.n_prompt, n_stages=info.n_stages)
    with head.begin(request, RequestTracer(recorder, sys.stdout)) as active:
        start_s = time.monotonic()
        times_s = [time.monotonic() for _ in islice(active.tokens, N_PREDICT)]
        recording = recorder.recording()
    stats = measure(info, start_s, times_s, active.counters)
    title = (
        f"{title}, emulated {profile.name}, synthetic acceptance {ACCEPTANCE}: "
        f"{stats.tokens_per_s:.1f} tokens/s"
    )
    return Chart(title=title, timeline=timeline(recording))


def sweep(folder: Path, x: str, title: str, **lists: Any) -> None:
    """Simulated speeds of strategies as they come."""
    config = SimulateConfig(**lists)
    rows = [
        {
            "strategy": each.strategy,
            "tps": each.tokens_per_s,
            "rate": each.acceptance.removesuffix(":informed"),
            "n_stages": each.n_stages,
        }
        for each in predictions(config)
    ]
    plot_sweep(rows, folder / f"{x}.svg", x=x, y="tps", title=title)


def draw(head: Head, profile: Profile, folder: Path) -> int:
    """All pictures."""
    runs = [recorded(head, profile, *each) for each in SIDE_BY_SIDE]
    for suffix in ("svg", "png"):
        plot_runs(runs, folder / f"strategies.{suffix}", window_ms=(0, 2500))
    rates = tuple(f"{rate}:informed" for rate in ("0.3", "0.5", "0.66", "0.79", "0.9"))
    sweep(
        *(folder, "rate", f"simulated, {profile.name}"),
        profiles=(profile.name,),
        acceptance=rates,
    )
    stages = (1, 2, 4, 8, 16, 32, 64)
    sweep(
        *(folder, "n_stages", f"simulated, {profile.name} over more stages, acceptance 0.79"),
        profiles=(profile.name,),
        acceptance=("0.79:informed",),
        stages=stages,
    )
    return 0


def main() -> int:
    profile, folder = profile_toml.load(sys.argv[2]), Path(sys.argv[3])
    return run(Path(sys.argv[1]), profile.name, lambda head: draw(head, profile, folder))


if __name__ == "__main__":
    sys.exit(main())
