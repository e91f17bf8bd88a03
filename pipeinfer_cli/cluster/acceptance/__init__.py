"""A text without a model, and what a drafter knows of it: drawn, or recorded."""
