"""Benchmarks against other trainers. Not part of the package, not run by the tests."""
