"""Axis 2: toward what, one file a kind."""
