"""The whole request as one value."""
