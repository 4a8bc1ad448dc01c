"""Generated from proto/asktell/v1 by `make proto`. Never edited."""
