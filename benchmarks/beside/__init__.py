"""`pipeinfer` beside the unpatched programs of llama.cpp, on one machine, in turn."""
