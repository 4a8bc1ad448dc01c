"""Contract tests and helpers, shipped so that other implementations can be held to the same rules. Need pytest."""
