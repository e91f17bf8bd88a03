"""`pipeinfer serve`: the pipeline as an HTTP endpoint."""
