"""Language models split by layers over MPI ranks: the `pipeinfer` command."""
