"""Which points of adaptation, objective, runtime and task exist, and why the others are refused."""
