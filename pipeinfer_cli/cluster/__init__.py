"""What a cluster costs: profiles, calibration, emulation on real ranks, simulation."""
