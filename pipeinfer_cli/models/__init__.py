"""Model files: names, downloads, GGUF headers, shards and layer ranges."""
