"""What outlives a process: releases and feedback, in SQLite or PostgreSQL."""
