"""Rules that mend texts: what each looks at, and what it makes of it."""
