"""OpenVINO on x86: fp32, bf16 and int8, any image size. Its artifact is an ONNX file, which the runtime compiles when it is opened."""

from compile.openvino.backend import OpenVinoBackend

BACKEND = OpenVinoBackend()
