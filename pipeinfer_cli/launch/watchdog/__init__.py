"""Is everybody alive, and does the work get on? Says who is not, and ends the job."""
