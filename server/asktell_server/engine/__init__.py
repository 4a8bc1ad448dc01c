"""Hosts live optimizers keyed by study: cache, compute processes, look-ahead."""
