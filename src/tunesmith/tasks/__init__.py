"""What the numbers mean, one file a task."""
