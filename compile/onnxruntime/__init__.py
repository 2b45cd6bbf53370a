"""ONNX Runtime on the CPU: fp32, fp16 and int8, any image size. Its artifact is an ONNX file and runs on every board."""

from compile.onnxruntime.backend import OnnxRuntimeBackend

BACKEND = OnnxRuntimeBackend()
