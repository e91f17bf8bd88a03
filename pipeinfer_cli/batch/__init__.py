"""Many prompts through one pipeline: `pipeinfer generate --prompts`."""
