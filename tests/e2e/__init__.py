"""The whole thing, with real parts and short settings."""
