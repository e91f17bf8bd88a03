#!/bin/bash
# One text from a model whose layers are split over the nodes of a Slurm job:
#   MODEL=/models/model.gguf PROMPT="Once upon a time" sbatch examples/slurm.sh

# The name that squeue shows.
#SBATCH --job-name=pipeinfer
# The number of nodes; each holds a part of the layers.
#SBATCH --nodes=2
# One rank per node. Two or more on a node pay where it has several NUMA nodes.
#SBATCH --ntasks-per-node=1
# Cores of each rank: pipeinfer takes its number of threads from here.
#SBATCH --cpus-per-task=4
# The job is ended after this time.
#SBATCH --time=01:00:00
# stdout, the text, goes here; %j is the job's number, which --format json has as job_id.
#SBATCH --output=pipeinfer-%j.txt
# stderr: notes, the placement and errors.
#SBATCH --error=pipeinfer-%j.log

# End at the first error.
set -euo pipefail

# The environment that pipeinfer is installed in, the same path on all nodes.
source "${VENV:-.venv}/bin/activate"
# A GGUF that all nodes see; without shared storage see `pipeinfer shard`.
MODEL="${MODEL:-/models/model.gguf}"
# What the text begins with.
PROMPT="${PROMPT:-Once upon a time}"
# How srun tells ranks of one another: pmi2 for MPICH (the default build), pmix for Open MPI.
MPI_TYPE="${MPI_TYPE:-pmi2}"
# Options for pipeinfer, if there are any.
OPTIONS="${OPTIONS:-}"

# Since Slurm 22.05 srun has to be told how many cores a task has, if the job asked for a number.
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then
    export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"
fi
# One copy per task; they find each other, and rank 0 writes. When one has ended, the others get 30 s to do so.
# shellcheck disable=SC2086
srun --mpi="$MPI_TYPE" --wait=30 pipeinfer generate -m "$MODEL" --report-binding --stats $OPTIONS "$PROMPT"
