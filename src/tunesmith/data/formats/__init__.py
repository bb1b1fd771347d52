"""Detect and read the common layouts of rows, in the common kinds of files."""
