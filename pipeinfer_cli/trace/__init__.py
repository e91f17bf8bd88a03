"""Pictures of a generation: a recording of what happened, and what is drawn from it."""
