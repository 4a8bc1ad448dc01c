"""Peers' adapters, each a script that serves the protocol: `python -m benchmarks.optimizers.peers.NAME` in its own environment.

Each is set up as its documentation recommends; where that was a choice, the module says which and why.
"""
