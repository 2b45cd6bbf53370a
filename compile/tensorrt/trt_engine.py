"""Engines on this machine's GPU, with TensorRT's Python API from 8.2 to 11, and memory through the CUDA driver.

Needs tensorrt, Python 3.6 or later and, to run an engine, numpy.
"""

import ctypes
from pathlib import Path

try:
    import numpy as np
except ImportError:  # building needs none
    np = None


def build(settings: dict, onnx: Path, timings: bytes) -> tuple:
    """Build an engine.

    Args:
        settings: "builder" of the artifact's facts.
        onnx: the file.
        timings: timing cache of earlier builds on this GPU with this TensorRT, or nothing.

    Returns:
        The engine's bytes, the timing cache with what was measured now, and the layers as JSON text.

    Raises:
        RuntimeError: TensorRT cannot read the file, or built nothing.

    """
    import tensorrt as trt

    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    kinds = trt.NetworkDefinitionCreationFlag.__members__
    kind = "STRONGLY_TYPED" if settings["typed"] else "EXPLICIT_BATCH"
    network = builder.create_network(1 << int(kinds[kind]) if kind in kinds else 0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx)):
        errors = "; ".join(str(parser.get_error(i)).strip() for i in range(min(3, parser.num_errors)))
        raise RuntimeError(f"TensorRT cannot read {onnx.name}: {errors}")
    config = configure(trt, builder, settings)
    if not config.set_timing_cache(config.create_timing_cache(timings), False):
        config.set_timing_cache(config.create_timing_cache(b""), False)  # of another GPU or version: start afresh
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RuntimeError("TensorRT built no engine; its messages above say why (out of memory: lower workspace_mib)")
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    layers = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return bytes(plan), bytes(config.get_timing_cache().serialize()), layers


def configure(trt: object, builder: object, settings: dict) -> object:
    """The builder's configuration: precisions where flags decide them, memory, and names of layers kept."""
    config = builder.create_builder_config()
    for name in settings["precisions"]:
        config.set_flag(getattr(trt.BuilderFlag, name))
    if not settings["tf32"]:
        config.clear_flag(trt.BuilderFlag.TF32)
    size = settings["workspace_mib"] << 20
    if hasattr(config, "set_memory_pool_limit"):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, size)
    else:
        config.max_workspace_size = size  # before 8.4
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    return config


class Buffer:
    """Bytes of the GPU's memory; ``cuda`` is ``build_engine.Cuda`` with a context."""

    def __init__(self, cuda: object, size: int) -> None:
        self.cuda, self.size, self.address = cuda, size, ctypes.c_uint64()
        cuda.call("cuMemAlloc_v2", ctypes.byref(self.address), ctypes.c_size_t(size))

    def write(self, x: object) -> None:
        """Copy a contiguous array of the buffer's size into it."""
        self.cuda.call("cuMemcpyHtoD_v2", self.address, ctypes.c_void_p(x.ctypes.data), ctypes.c_size_t(self._fitting(x)))

    def read(self, x: object) -> None:
        """Fill a contiguous array of the buffer's size from it."""
        self.cuda.call("cuMemcpyDtoH_v2", ctypes.c_void_p(x.ctypes.data), self.address, ctypes.c_size_t(self._fitting(x)))

    def free(self) -> None:
        """Give the memory back; a second time does nothing."""
        if self.address.value:
            self.cuda.call("cuMemFree_v2", self.address)
            self.address = ctypes.c_uint64()

    def _fitting(self, x: object) -> int:
        if x.nbytes != self.size or not x.flags["C_CONTIGUOUS"]:
            raise ValueError(f"an array of {x.nbytes} bytes for a buffer of {self.size}, or one that is not contiguous")
        return self.size


class Engine:
    """A deserialised engine with one input and one output of fixed size, both float32.

    Args:
        path: the engine; check its record first (``build_engine.misfit``): loading executes its code.
        cuda: ``build_engine.Cuda``.

    """

    def __init__(self, path: Path, cuda: object) -> None:
        import tensorrt as trt

        self.cuda = cuda
        cuda.make_current()
        self.logger = trt.Logger(trt.Logger.WARNING)
        self.engine = trt.Runtime(self.logger).deserialize_cuda_engine(path.read_bytes())
        if self.engine is None:
            raise RuntimeError(f"TensorRT {trt.__version__} cannot load {path.name}; its messages above say why")
        self.context = self.engine.create_execution_context()
        tensors = tensors_of(self.engine)
        if sorted(is_input for _, is_input, _ in tensors) != [False, True]:
            raise RuntimeError(f"{path.name} has the tensors {[name for name, _, _ in tensors]}, not one input and one output")
        self.buffers = [Buffer(cuda, 4 * int(np.prod(shape))) for _, _, shape in tensors]
        first = 0 if tensors[0][1] else 1
        self.shape, self.output_shape = tensors[first][2], tensors[1 - first][2]
        self.input, self.output = self.buffers[first], self.buffers[1 - first]

    def run(self, x: object) -> object:
        """One inference: float32 of the engine's shape [1, 3, H, W] to float32 [1, 3, H, W]."""
        self.cuda.make_current()
        if x.shape != self.shape or x.dtype != np.float32:
            raise ValueError(f"input is {x.dtype} {x.shape}, and this engine takes float32 {self.shape}")
        self.input.write(np.ascontiguousarray(x))
        if not self.context.execute_v2([buffer.address.value for buffer in self.buffers]):
            raise RuntimeError("TensorRT could not run the engine; its messages above say why")
        out = np.empty(self.output_shape, np.float32)
        self.output.read(out)
        return out

    def close(self) -> None:
        """Free the GPU's memory."""
        for buffer in self.buffers:
            buffer.free()
        self.context = self.engine = None


def tensors_of(engine: object) -> list:
    """(name, whether it is an input, shape) of an engine's tensors, in the order in which it takes their addresses."""
    if hasattr(engine, "num_io_tensors"):
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        return [(n, str(engine.get_tensor_mode(n)).endswith("INPUT"), tuple(engine.get_tensor_shape(n))) for n in names]
    places = range(engine.num_bindings)  # before 8.5
    return [(engine.get_binding_name(i), engine.binding_is_input(i), tuple(engine.get_binding_shape(i))) for i in places]
