"""Pure ask/tell optimizers: they know the domain and arrays, nothing of gRPC or SQL."""
