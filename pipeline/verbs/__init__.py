"""The verbs of the command line, one module each, found by the name of their file. A module exports ``register(app)``."""
