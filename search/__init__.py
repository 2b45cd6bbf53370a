"""Search for students under a target's limits: proxies first, full runs for the best (``python -m pipeline search``)."""
