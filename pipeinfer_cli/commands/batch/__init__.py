"""`pipeinfer generate --prompts`: many prompts through one pipeline."""
