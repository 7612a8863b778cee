"""Floor 2: every store against one contract."""
