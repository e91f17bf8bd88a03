"""What each kind of job does on the head."""
