"""Backends, parity, the choice of the fastest artifact that is still the same network, and the bundle."""
