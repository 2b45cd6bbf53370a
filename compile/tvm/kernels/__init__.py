"""Kernels written out as TIR: channels last, packed weights, register tiles, everything that follows a convolution fused into it."""
