"""A loaded pipeline, and the loop that feeds it."""
