"""LiteRT on mobile CPUs: fp32, fp16 and int8 .tflite files of fixed size, channel-last, run by XNNPACK as one piece."""

from compile.litert.backend import LiteRtBackend

BACKEND = LiteRtBackend()
