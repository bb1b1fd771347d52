"""Before training: is it time, with which method, and what will it cost. Starts fast: no torch here."""
