"""Blur/sharp pairs: readers, synthesis, crops."""
