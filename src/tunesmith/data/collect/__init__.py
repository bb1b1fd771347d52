"""Rows from elsewhere: fetched once into a folder of this machine, hashed, and read from there."""
