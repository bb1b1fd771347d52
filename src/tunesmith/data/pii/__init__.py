"""Personal data in rows: what it looks like, where it stands, and how it is masked."""
