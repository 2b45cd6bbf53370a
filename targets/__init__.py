"""Boards, one YAML each, and the latency estimator."""
