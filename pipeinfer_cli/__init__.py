"""Language models split by layers over MPI ranks: the `pipeinfer` command."""

import os

# numpy is not asked for products of matrices, and its BLAS would start a thread for each core.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
