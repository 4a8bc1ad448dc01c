"""The gRPC front door: a thin servicer, the proto <-> domain bridge, status codes, interceptors."""
