"""The runtimes that a board may have; each runs one artifact of the bundle. ``RUNTIMES`` knows them by the artifact's backend."""

import os
import platform
import struct
import subprocess
import time
from typing import Any, Dict, List, Tuple

import numpy as np
from board import layers
from board.basics import HERE, DeviceError, Json
from board.tensorrt import TensorRt


class Called:
    """A runtime that runs in this process: ``run`` takes float32 [1, 3, H, W] to the same."""

    version = ""
    run: Any

    def timed(self, x: Any) -> Tuple[Any, float]:
        """One inference and its time in ms."""
        start = time.perf_counter()
        out = self.run(x)
        return out, (time.perf_counter() - start) * 1e3

    def close(self) -> None:
        """Nothing to give back."""


class OnnxRuntime(Called):
    """ONNX Runtime on the CPU."""

    def __init__(self, artifact: Json, bundle: Json, threads: int) -> None:
        os.environ.setdefault(
            "ORT_DISABLE_TELEMETRY", "1"
        )  # its Linux wheels leave a device id at home and report to their maker otherwise
        try:
            import onnxruntime
        except ImportError as e:
            raise DeviceError("onnxruntime cannot be imported ({}): pip install onnxruntime".format(e)) from None
        self.path, self.threads = str(HERE / artifact["path"]), threads
        self.session = self._open(onnxruntime.SessionOptions())
        self.name = bundle["network"]["input"]
        self.version = "onnxruntime " + onnxruntime.__version__

    def run(self, x: Any) -> Any:
        """One inference."""
        return self.session.run(None, {self.name: x})[0]

    def layer_times(self, x: Any) -> Json:
        """Times of the layers by the runtime's own profiler, in a session of its own: see ``layers.profiled``."""
        return layers.profiled(self._open, self.name, x)

    def _open(self, options: Any) -> Any:
        import onnxruntime

        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        return onnxruntime.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])


class Native:
    """A library that TVM compiled, in the bundle's own runner: no TVM on the board. It is a process fed through pipes."""

    def __init__(self, artifact: Json, bundle: Json, threads: int) -> None:
        _check_machine(artifact)
        program = HERE / artifact["runner"]
        program.chmod(0o755)  # some ways of copying lose it
        self.name, self.version = artifact["name"], "native runner"
        try:
            self.process = subprocess.Popen(
                [str(program), "serve", str(HERE / artifact["path"]), str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        except OSError as e:
            raise DeviceError("{} cannot be started ({})".format(artifact["runner"], e.strerror)) from None
        self.process_id = self.process.pid  # its memory counts, not this process's
        self.size = [int(n) for n in self._read_line().split()]

    def timed(self, x: Any) -> Tuple[Any, float]:
        """One inference and its time in ms as the runner took it, without the pipes."""
        if list(x.shape) != [1, 3, *self.size]:
            raise DeviceError("{} takes images of {}x{}, not {}".format(self.name, self.size[1], self.size[0], x.shape))
        pipe: Any = self.process.stdin
        try:
            pipe.write(np.ascontiguousarray(x, np.float32).tobytes())
            pipe.flush()
        except OSError:
            raise DeviceError("the native runner stopped (its message is above)") from None
        (ms,) = struct.unpack("d", self._read(8))
        return np.frombuffer(self._read(x.size * 4), np.float32).reshape(x.shape), ms

    def run(self, x: Any) -> Any:
        """One inference."""
        return self.timed(x)[0]

    def close(self) -> None:
        """End the process."""
        pipe: Any = self.process.stdin
        pipe.close()
        self.process.wait()

    def _read(self, count: int) -> bytes:
        pipe: Any = self.process.stdout
        data: bytes = pipe.read(count)
        if len(data) < count:
            raise DeviceError("the native runner stopped (its message is above)")
        return data

    def _read_line(self) -> str:
        pipe: Any = self.process.stdout
        line: bytes = pipe.readline()
        if not line:
            raise DeviceError("the native runner stopped (its message is above)")
        return line.decode("ascii", "replace")


class Tvm(Called):
    """TVM's own runtime on the CPU, where the bundle has no native runner for the machine."""

    def __init__(self, artifact: Json, bundle: Json, threads: int) -> None:
        os.environ["TVM_NUM_THREADS"] = str(threads or os.cpu_count() or 1)
        _check_machine(artifact)
        try:
            import tvm
            from tvm import relax
        except ImportError as e:
            what = "TVM cannot be imported ({}): pip install apache-tvm==0.26.0 apache-tvm-ffi==0.1.13.post3"
            raise DeviceError(what.format(e)) from None
        library = tvm.runtime.load_module(str(HERE / artifact["path"]))
        self.main = relax.VirtualMachine(library, tvm.cpu())["main"]
        self.tensor = tvm.runtime.tensor
        self.version = "tvm " + tvm.__version__

    def run(self, x: Any) -> Any:
        """One inference."""
        return self.main(self.tensor(x)).numpy()


class LiteRt(Called):
    """LiteRT with XNNPACK on the CPU; on an old device under its old name, tflite_runtime."""

    def __init__(self, artifact: Json, bundle: Json, threads: int) -> None:
        interpreter, self.version = _litert()
        self.interpreter = interpreter(model_path=str(HERE / artifact["path"]), num_threads=threads or os.cpu_count() or 1)
        self.interpreter.allocate_tensors()
        self.input = self.interpreter.get_input_details()[0]["index"]
        self.output = self.interpreter.get_output_details()[0]["index"]

    def run(self, x: Any) -> Any:
        """One inference; the file is channel-last."""
        self.interpreter.set_tensor(self.input, np.ascontiguousarray(x.transpose(0, 2, 3, 1)))
        self.interpreter.invoke()
        return np.ascontiguousarray(self.interpreter.get_tensor(self.output).transpose(0, 3, 1, 2))


class OpenVino(Called):
    """OpenVINO on the CPU, in the precision that the artifact was judged in."""

    def __init__(self, artifact: Json, bundle: Json, threads: int) -> None:
        try:
            import openvino
        except ImportError as e:
            raise DeviceError("openvino cannot be imported ({}): pip install openvino".format(e)) from None
        properties: Dict[str, Any] = {"NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
        properties.update({} if artifact["precision"] == "bf16" else {"INFERENCE_PRECISION_HINT": "f32"})
        properties.update({"INFERENCE_NUM_THREADS": threads} if threads else {})
        self.core, self.properties = openvino.Core(), properties
        self.requests: Dict[Any, Any] = {}
        self.model = self.core.read_model(str(HERE / artifact["path"]))
        self.version = "openvino " + openvino.__version__

    def run(self, x: Any) -> Any:
        """One inference; each image size is compiled once."""
        if x.shape not in self.requests:
            model = self.model.clone()
            model.reshape({0: list(x.shape)})
            self.requests[x.shape] = self.core.compile_model(model, "CPU", self.properties).create_infer_request()
        self.requests[x.shape].infer([x])
        return self.requests[x.shape].get_output_tensor(0).data.copy()


def _litert() -> Tuple[Any, str]:
    try:
        import ai_edge_litert
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter, "ai-edge-litert " + getattr(ai_edge_litert, "__version__", "")
    except ImportError:
        pass
    try:
        import tflite_runtime
        from tflite_runtime.interpreter import Interpreter
    except ImportError as e:
        what = "pip install ai-edge-litert (Python 3.9 or older, or glibc older than 2.34: pip install tflite-runtime 'numpy<2')"
        raise DeviceError("LiteRT cannot be imported ({}): {}".format(e, what)) from None
    return Interpreter, "tflite-runtime " + getattr(tflite_runtime, "__version__", "")


def _check_machine(artifact: Json) -> None:
    built = artifact["facts"]["mtriple"].split("-")[0]
    if built != platform.machine():
        raise DeviceError("{} was built for {} and this machine is {}".format(artifact["name"], built, platform.machine()))


RUNTIMES: Dict[str, List[Any]] = {
    "onnxruntime": [OnnxRuntime],
    "tvm": [Native, Tvm],
    "tensorrt": [TensorRt],
    "litert": [LiteRt],
    "openvino": [OpenVino],
}


def open_runtime(artifact: Json, bundle: Json, threads: int) -> Any:
    """Open an artifact in its runtime, with CPU threads (0 = all cores); the native runner where the bundle has one."""
    if artifact["backend"] not in RUNTIMES:
        raise DeviceError("this script cannot run the backend '{}'".format(artifact["backend"]))
    known = RUNTIMES[artifact["backend"]]
    try:
        return known[0 if artifact.get("runner") else -1](artifact, bundle, threads)
    except DeviceError:
        raise
    except Exception as e:  # noqa: BLE001 (every runtime has its own, and an old one meets new files)
        what = "{} cannot be opened by this board's {} ({}): install a newer version of it"
        raise DeviceError(what.format(artifact["path"], artifact["backend"], str(e).strip().splitlines()[0][:200])) from None
