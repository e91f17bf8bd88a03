"""Run in the machine of two_nodes.py: loads a model in several ways, and prints where it is.

`memory_places.py GGUF`: a line of JSON for each way, with bytes by NUMA node.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from pipeinfer_cli.engine.config import EngineConfig
from pipeinfer_cli.engine.engine import Engine
from pipeinfer_cli.engine.llama_cpp import capture_log
from pipeinfer_cli.launch.host import numa
from pipeinfer_cli.launch.host.cores import Cores
from pipeinfer_cli.models.gguf.info import read_model_info
from pipeinfer_cli.scheduler.runs import Run, RunToken

WAIT_S = 120
LEFT, RIGHT = (0, 1), (2, 3)
WAYS = (
    ("as cached", {"cpus": LEFT}),
    ("moved", {"cpus": LEFT, "nodes": (0,)}),
    ("in turn", {"cpus": LEFT, "nodes": (0, 1)}),
    ("read on node 1", {"cpus": RIGHT, "reads_weights": True}),
    ("read in turn", {"cpus": LEFT, "nodes": (0, 1), "reads_weights": True}),
)


def main(path: Path) -> None:
    capture_log()
    os.sched_setaffinity(0, RIGHT)
    subprocess.run(["cat", str(path)], stdout=subprocess.DEVNULL, check=True)  # caches it there
    os.sched_setaffinity(0, LEFT)
    host = Cores.read()
    print(json.dumps({"nodes": [host.node_of(cpu) for cpu in (*LEFT, *RIGHT)]}), flush=True)
    config = EngineConfig(
        model_path=path,
        layer_first=0,
        layer_last=read_model_info(path).n_layer,
        n_ctx=256,
        n_cells=256,
        n_batch=32,
        n_threads=1,
    )
    for name, way in WAYS:
        everything, _ = numa.resident_by_node(path.parent)
        with Engine(replace(config, **way)) as engine:
            token = RunToken(id=1, position=0, seq_ids=(0,), want=True)
            engine.submit(Run(run_id=1, tokens=(token,)))
            row = engine.wait(WAIT_S).rows
            after, files = numa.resident_by_node(path.parent)
            memory = [after.get(n, 0) - everything.get(n, 0) - files.get(n, 0) for n in (0, 1)]
        found = {"way": name, "files": [files.get(n, 0) for n in (0, 1)], "memory": memory}
        print(json.dumps({**found, "row": row}), flush=True)


main(Path(sys.argv[1]))
