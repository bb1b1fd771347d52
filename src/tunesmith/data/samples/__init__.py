"""Rows that the product makes itself, for a first run without own data."""
