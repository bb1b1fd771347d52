"""Axis 3: where one fit runs."""
