"""No network at all: its session hands the image back, so what it takes is what the harness itself costs."""

from compile.null.backend import NullBackend

BACKEND = NullBackend()
