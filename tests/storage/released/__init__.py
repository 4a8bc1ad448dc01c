"""Databases of every schema that was released, as SQL.

The newest is written by `python -m tests.storage.released`, from the repository's root.
"""
