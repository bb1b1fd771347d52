"""Axis 1: what is trained, one file a kind."""
