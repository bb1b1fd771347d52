"""Where the axes meet: one assembly point, one loop."""
