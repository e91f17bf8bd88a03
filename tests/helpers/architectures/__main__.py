"""Writes docs/architectures.md to standard output."""

from architectures import table

print(table(), end="")
