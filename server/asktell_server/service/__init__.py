"""Use cases: what the server does with a study. No gRPC, no SQL."""
