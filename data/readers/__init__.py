"""Data readers, found by the name of their file."""
