"""One small file a system: how it trains the rows that everybody gets."""
