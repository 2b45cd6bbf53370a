"""Quality, cost and latency of a network, whatever runs it."""
