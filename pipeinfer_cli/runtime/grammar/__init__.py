"""Grammars that texts must follow: where they come from, and what they allow after a text."""
