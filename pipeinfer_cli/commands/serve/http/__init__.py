"""HTTP: the server in its thread, who may use it, and errors as JSON."""
