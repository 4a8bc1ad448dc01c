"""Metrics and structured logs, injected wherever something is worth counting or saying."""
