"""What this host is, and what it lets us have: CPU time, memory, shared memory."""
