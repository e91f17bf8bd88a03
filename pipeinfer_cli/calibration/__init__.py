"""Calibration: what stages, links and drafter really take, measured once and used by later jobs."""
