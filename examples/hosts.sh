#!/bin/bash
# One text from a model whose layers are split over hosts that ssh reaches without a password:
#   MODEL=/models/model.gguf examples/hosts.sh examples/hosts "Once upon a time"

# End at the first error.
set -euo pipefail

# The hosts, one a line; the first one is the head.
HOSTS="${1:?give a file of hosts}"
# What the text begins with.
PROMPT="${2:?give a prompt}"
# The environment that pipeinfer is installed in, the same path on all hosts.
source "${VENV:-.venv}/bin/activate"
# A GGUF that all hosts have under this path; otherwise see `pipeinfer shard`.
MODEL="${MODEL:-/models/model.gguf}"
# Options for pipeinfer, if there are any.
OPTIONS="${OPTIONS:-}"

# Their names: without comments, blank lines, spaces and the line ends of Windows.
NAMES=$(sed -e 's/#.*//' -e 's/[[:space:]]//g' -e '/^$/d' "$HOSTS")
# One rank for each.
RANKS=$(wc -w <<< "$NAMES")
if [ "$RANKS" -eq 0 ]; then
    echo "$HOSTS names no host: give one per line" >&2
    exit 2
fi
# Starts them through ssh. For Open MPI: mpirun -H "${NAMES//$'\n'/,}" --map-by node --bind-to none.
# shellcheck disable=SC2086
mpiexec -hosts "${NAMES//$'\n'/,}" -n "$RANKS" pipeinfer generate -m "$MODEL" --report-binding --stats $OPTIONS "$PROMPT"
