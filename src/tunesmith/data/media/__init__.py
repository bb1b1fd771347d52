"""Rows about pictures and sounds: where their files lie, what they hold, and what is said of them."""
