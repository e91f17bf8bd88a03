"""GGUF files: headers read and written, and what they say of a model."""
