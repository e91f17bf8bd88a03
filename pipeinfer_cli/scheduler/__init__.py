"""Which runs to submit next: pure decisions, without MPI, ctypes, clock or randomness."""
