"""TensorRT: the ONNX file and the exact trtexec commands. Engines are built on the board: they fit one GPU and one version only."""

from compile.tensorrt.backend import TensorRtBackend

BACKEND = TensorRtBackend()
