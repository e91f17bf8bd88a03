"""Tools that a model may call: what its chat template is told of them, and calls in its text."""
