"""Rows made from training rows: synonyms, edits, a model's words, balance. One method a file; `apply` is the way in."""
