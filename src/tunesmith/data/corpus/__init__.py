"""A corpus larger than memory: cleaned, without duplicates and split, in one durable pass (start with build.py)."""
