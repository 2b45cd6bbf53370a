"""ONNX Runtime on the CPU: fp32, fp16 and int8, any image size. Its artifact is an ONNX file and runs on every board."""

import os

from compile.onnxruntime.backend import OnnxRuntimeBackend

# Its Linux wheels leave a device id in the user's home when they are imported, and report to their maker from a thread of their own.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

BACKEND = OnnxRuntimeBackend()
