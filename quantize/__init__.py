"""int8: fake-quantization, calibration, quantization-aware training, and the ONNX files that runtimes read."""
