"""`pipeinfer bench`: strategies compared, in turn, through the same loaded pipeline."""
