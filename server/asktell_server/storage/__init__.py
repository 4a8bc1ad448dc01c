"""Durable studies and trials: the Storage protocol and one SQLAlchemy Core store."""
