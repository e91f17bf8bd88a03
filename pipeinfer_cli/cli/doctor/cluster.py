"""What doctor says of the batch system: the job it runs in, and how srun would start ranks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping

from pipeinfer_cli.launch import environment
from pipeinfer_cli.launch.host.mpi_info import MpiInfo

COMMAND_TIMEOUT_S = 20.0

# What a launcher gives its processes to find one another with.
PMI_VARIABLES = {"PMI_FD": "PMI", "PMI_PORT": "PMI", "PMIX_NAMESPACE": "PMIx"}


def job(env: Mapping[str, str]) -> Iterator[str]:
    """What is known of the batch job and the launcher around us, in parts of a sentence."""
    job_id = environment.job_id(env)
    if job_id is not None and "SLURM_JOB_ID" in env:
        n_nodes, n_tasks = env.get("SLURM_JOB_NUM_NODES", "?"), env.get("SLURM_NTASKS", "?")
        yield f"Slurm job {job_id}: {n_nodes} node(s), {n_tasks} task(s)"
        if cores := env.get("SLURM_CPUS_PER_TASK"):
            yield f"{cores} core(s) per task"
    elif job_id is not None and "PBS_JOBID" in env:
        yield f"PBS job {job_id}: {len(environment.nodefile_hosts(env)) or '?'} host(s)"
    elif job_id is not None:
        yield f"batch job {job_id}"
    launch_env = environment.detect(env)
    if not launch_env.alone:
        ways = {way for name, way in PMI_VARIABLES.items() if name in env}
        yield f"rank {launch_env.rank} of {launch_env.size or '?'} of {launch_env.launcher}" + (
            f", which speaks {' and '.join(sorted(ways))}" if ways else ""
        )


def srun_types() -> list[str] | None:
    """What `srun --mpi` can be here; None without srun. OSError or TimeoutExpired if it fails."""
    path = shutil.which("srun")
    if path is None:
        return None
    done = subprocess.run(
        [path, "--mpi=list"],
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
        env={key: value for key, value in os.environ.items() if not key.startswith("SLURM_JOB")},
    )
    said = done.stdout + done.stderr
    found = re.findall(r"\b(none|pmi2|pmix\w*|cray_shasta|openmpi)\b", said)
    return list(dict.fromkeys(found))


def fits(mpi: MpiInfo, types: list[str]) -> bool:
    """Whether srun can start ranks of this MPI."""
    return any(each.startswith(mpi.srun_type) for each in types)
