#!/bin/bash
# One text from a model whose layers are split over the nodes of a PBS job:
#   qsub -v MODEL=/models/model.gguf,PROMPT="Once upon a time" examples/pbs.sh

# The name that qstat shows.
#PBS -N pipeinfer
# The number of nodes, each with this many cores and one rank; ompthreads becomes OMP_NUM_THREADS: its threads.
#PBS -l select=2:ncpus=16:mpiprocs=1:ompthreads=16
# One node each, and no other jobs there.
#PBS -l place=scatter:excl
# The job is ended after this time.
#PBS -l walltime=01:00:00
# stderr (notes, the placement, errors) stays apart from stdout, the text.
#PBS -k oe

# End at the first error.
set -euo pipefail

# PBS starts in the home folder; go where qsub was called.
cd "${PBS_O_WORKDIR:-.}"
# The environment that pipeinfer is installed in, the same path on all nodes.
source "${VENV:-.venv}/bin/activate"
# A GGUF that all nodes see; without shared storage see `pipeinfer shard`.
MODEL="${MODEL:-/models/model.gguf}"
# What the text begins with.
PROMPT="${PROMPT:-Once upon a time}"
# Options for pipeinfer, if there are any.
OPTIONS="${OPTIONS:-}"

# PBS lists a host once for each rank that it is to have.
RANKS=$(grep -c . "$PBS_NODEFILE")
# mpiexec reads the same file. For Open MPI: mpirun --hostfile "$PBS_NODEFILE" --map-by node --bind-to none.
# shellcheck disable=SC2086
mpiexec -f "$PBS_NODEFILE" -n "$RANKS" pipeinfer generate -m "$MODEL" --report-binding --stats $OPTIONS "$PROMPT"
