"""Faults that other trainers are put to beside Tunesmith."""
