"""Conversations: the GGUF's chat template, several turns, lines from people and from pipes."""
