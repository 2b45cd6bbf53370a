"""Symmetric int8: calibration, quantization-aware training, Q/DQ export."""
