"""The floor of the house: standard library only, imported by every other room."""
