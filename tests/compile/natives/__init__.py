"""Backends and functions that behave as native code at its worst, found by import path."""
