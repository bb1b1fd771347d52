"""Rows in, clean and split rows out, every row with one fate."""
