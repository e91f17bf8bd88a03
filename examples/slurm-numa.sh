#!/bin/bash
# One text from a model whose layers are split over the NUMA nodes of a Slurm job's hosts: each rank reads its weights
# from its own node's memory, and each is one more stage. For hosts of two sockets with a NUMA node each:
#   MODEL=/models/model.gguf PROMPT="Once upon a time" sbatch examples/slurm-numa.sh
# Where a socket has several (`lscpu` counts them; AMD's NPS4, Intel's SNC), give their number per host and per socket:
#   sbatch --ntasks-per-node=8 --ntasks-per-socket=4 examples/slurm-numa.sh

# The name that squeue shows.
#SBATCH --job-name=pipeinfer
# The number of hosts.
#SBATCH --nodes=2
# One rank per NUMA node: two sockets with one each.
#SBATCH --ntasks-per-node=2
#SBATCH --ntasks-per-socket=1
# All cores and all memory of the hosts: nobody else takes bandwidth. Cores per task follow from it.
#SBATCH --exclusive
#SBATCH --mem=0
# One thread for each physical core: two would share its arithmetic.
#SBATCH --hint=nomultithread
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
# A GGUF that all hosts see; without shared storage see `pipeinfer shard`.
MODEL="${MODEL:-/models/model.gguf}"
# What the text begins with.
PROMPT="${PROMPT:-Once upon a time}"
# How srun tells ranks of one another: pmi2 for MPICH (the default build), pmix for Open MPI.
MPI_TYPE="${MPI_TYPE:-pmi2}"
# ldoms: each rank may use the CPUs of one NUMA node; its threads follow from them. No --mem-bind: pipeinfer takes memory
# near its threads, and moves weights there that the page cache has elsewhere. Memory that srun has bound it leaves alone.
CPU_BIND="${CPU_BIND:-ldoms}"
# Options for pipeinfer, if there are any: --no-mmap, if a note says that weights stay on other nodes.
OPTIONS="${OPTIONS:-}"

# One copy per task; they find each other, and rank 0 writes. When one has ended, the others get 30 s to do so.
# shellcheck disable=SC2086
srun --mpi="$MPI_TYPE" --cpu-bind="$CPU_BIND" --wait=30 \
    pipeinfer generate -m "$MODEL" --report-binding --stats $OPTIONS "$PROMPT"
