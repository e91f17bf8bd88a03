"""Tokens as they come, the text that they make, and where it stops."""
