"""What runs and drafts cost, and the sizes that follow from it."""
