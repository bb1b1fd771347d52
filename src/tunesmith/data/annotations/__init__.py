"""What people said of rows in Label Studio and Argilla: read, merged into rows, written, and how far they agree."""
