"""`pipeinfer bench --calibrate`: measures stages, links and drafter."""
