"""Boards that a test can have: real servers on this machine's loopback, with real programs behind them."""
