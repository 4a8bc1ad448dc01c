"""The AskTell server."""
