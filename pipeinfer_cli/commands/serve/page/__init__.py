"""The page at `/`: a chat, and the pipeline at work."""
