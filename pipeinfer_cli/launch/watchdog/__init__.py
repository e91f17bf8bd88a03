"""Detects lost and hanging ranks, reports them, and ends the job."""
