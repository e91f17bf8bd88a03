#!/bin/bash
# Many prompts through a model whose layers are split over the nodes of a Slurm job. The job stops in time before its limit,
# goes back into the queue, and continues where it stopped, until every prompt has its line:
#   MODEL=/models/model.gguf PROMPTS=prompts.jsonl OUTPUT=answers.jsonl sbatch examples/slurm-batch.sh
# As an array, each task has a part of the prompts and a pipeline of its own:
#   split -n l/4 -d -a 1 --additional-suffix=.jsonl prompts.jsonl prompts.     # prompts.0.jsonl ... prompts.3.jsonl
#   MODEL=/models/model.gguf PROMPTS=prompts.jsonl OUTPUT=answers.jsonl sbatch --array=0-3 examples/slurm-batch.sh

# The name that squeue shows.
#SBATCH --job-name=pipeinfer-batch
# The number of nodes of a pipeline.
#SBATCH --nodes=2
# Two ranks on a node, one for each socket: each reads its layers from its own socket's memory. With one socket: 1.
#SBATCH --ntasks-per-node=2
#SBATCH --ntasks-per-socket=1
# No other jobs on these nodes: all their cores are ours, which is why --cpus-per-task is not needed.
#SBATCH --exclusive
# The job is ended after this time.
#SBATCH --time=04:00:00
# Two minutes before that the ranks get this signal: they give up the answer that has only begun, and end with exit code 75.
#SBATCH --signal=USR1@120
# The job may go back into the queue; what its runs print stays.
#SBATCH --requeue
#SBATCH --open-mode=append
# stdout and stderr: notes, progress and errors; %j is the job's number. The answers are in OUTPUT.
#SBATCH --output=pipeinfer-%j.txt
#SBATCH --error=pipeinfer-%j.log

# End at the first error, also at a variable without a value.
set -euo pipefail

# The environment that pipeinfer is installed in, the same path on all nodes.
source "${VENV:-.venv}/bin/activate"
# A GGUF that all nodes see; without shared storage see `pipeinfer shard`.
MODEL="${MODEL:-/models/model.gguf}"
# A JSON object per line, with prompt or messages, and an id (without one, its number within the file).
PROMPTS="${PROMPTS:-prompts.jsonl}"
# A line for each, in the same order.
OUTPUT="${OUTPUT:-answers.jsonl}"
# How srun tells ranks of one another: pmi2 for MPICH (the default build), pmix for Open MPI.
MPI_TYPE="${MPI_TYPE:-pmi2}"
# Options for pipeinfer, if there are any; the same in all runs.
OPTIONS="${OPTIONS:-}"

# A task of an array takes its own part: prompts.jsonl becomes prompts.3.jsonl.
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
    PROMPTS="${PROMPTS%.jsonl}.$SLURM_ARRAY_TASK_ID.jsonl"
    OUTPUT="${OUTPUT%.jsonl}.$SLURM_ARRAY_TASK_ID.jsonl"
fi
# For those who ask for --cpus-per-task: since Slurm 22.05 srun has to be told.
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then
    export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"
fi

# Each rank has the cores of a socket. --resume begins the file, or continues it. When one rank has ended, the others get
# 30 s to do so. `code` is the highest exit code of all ranks.
code=0
# shellcheck disable=SC2086
srun --mpi="$MPI_TYPE" --cpu-bind=sockets --wait=30 pipeinfer generate -m "$MODEL" \
    --prompts "$PROMPTS" --output "$OUTPUT" --resume --report-binding $OPTIONS || code=$?

# 75: interrupted, and nothing is lost. The same job again.
if [ "$code" -eq 75 ]; then
    echo "$OUTPUT is not complete: the job goes back into the queue" >&2
    scontrol requeue "$SLURM_JOB_ID"
    # Slurm ends this script; one that ends by itself before may count as failed.
    sleep 60
fi
# 0: every prompt has an answer. What else there is, such as prompts that cannot be answered, is not tried again.
exit "$code"
