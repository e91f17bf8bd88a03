"""Clusters that are not there: profiles of them, emulated on real ranks or simulated."""
