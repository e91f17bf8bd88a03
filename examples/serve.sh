#!/bin/bash
# A server over the nodes of a Slurm job, until its time is over:
#   PIPEINFER_API_KEY=... MODEL=/models/model.gguf sbatch examples/serve.sh

# The name that squeue shows.
#SBATCH --job-name=pipeinfer-serve
# The number of nodes; each holds a part of the layers.
#SBATCH --nodes=2
# One rank per node. Two or more on a node pay where it has several NUMA nodes.
#SBATCH --ntasks-per-node=1
# Cores of each rank: pipeinfer takes its number of threads from here.
#SBATCH --cpus-per-task=4
# The job is ended after this time.
#SBATCH --time=01:00:00
# stdout has nothing.
#SBATCH --output=/dev/null
# stderr: notes, the placement, errors, and the command for a tunnel.
#SBATCH --error=pipeinfer-%j.log

# End at the first error.
set -euo pipefail

# The environment that pipeinfer is installed in, the same path on all nodes.
source "${VENV:-.venv}/bin/activate"
# A GGUF that all nodes see; without shared storage see `pipeinfer shard`.
MODEL="${MODEL:-/models/model.gguf}"
# How srun tells ranks of one another: pmi2 for MPICH (the default build), pmix for Open MPI.
MPI_TYPE="${MPI_TYPE:-pmi2}"
# Options for pipeinfer, if there are any.
OPTIONS="${OPTIONS:-}"

# Since Slurm 22.05 srun has to be told how many cores a task has, if the job asked for a number.
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then
    export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"
fi
# Whoever reaches the nodes' network reaches the server: it takes only requests with this key.
export PIPEINFER_API_KEY="${PIPEINFER_API_KEY:?set it to a secret, for example: export PIPEINFER_API_KEY=\$(openssl rand -hex 16)}"
# Where the server is, with the key, while it runs: `. ./pipeinfer-url` reads it.
URL_FILE="${URL_FILE:-pipeinfer-url}"
# On the first node.
PORT="${PORT:-8080}"

# One copy per task; they find each other, and rank 0 answers. scancel ends it well, if --drain is below KillWait.
# shellcheck disable=SC2086
srun --mpi="$MPI_TYPE" --wait=30 pipeinfer serve -m "$MODEL" --host 0.0.0.0 --port "$PORT" --write-url "$URL_FILE" \
    --drain 20 --report-binding $OPTIONS
