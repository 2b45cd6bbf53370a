"""The runtimes that bench.py knows: each runs one artifact of this folder. Needs Python 3.8 or later and numpy."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    import numpy as np
except ImportError as missing:
    sys.stderr.write(f"error: {missing}: pip install numpy\n")
    sys.exit(2)

HERE = Path(__file__).resolve().parent
TRTEXEC = "/usr/src/tensorrt/bin/trtexec"

if TYPE_CHECKING:
    Json = dict[str, Any]


class DeviceError(Exception):
    """Something that the user can mend; its text is the one line that is shown."""


def call(*command: str) -> tuple[int, str]:
    """Exit status and output of a command; 127 when it is not there."""
    if not shutil.which(command[0]):
        return 127, "not found"
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return done.returncode, done.stdout.decode("utf-8", "replace").strip()


class Called:
    """A runtime that runs in this process: ``run`` takes float32 [1, 3, H, W] to the same."""

    run: Any

    def measure(self, x: Any, seconds: float, count: int) -> list[float]:
        """Times in ms, warm-up apart, until both the least time and the least count are reached."""
        for _ in range(3):
            self.run(x)
        times: list[float] = []
        total = 0.0
        while len(times) < count or total < seconds * 1e3:
            start = time.perf_counter()
            self.run(x)
            times.append((time.perf_counter() - start) * 1e3)
            total += times[-1]
        return times


class OnnxRuntime(Called):
    """ONNX Runtime on the CPU."""

    def __init__(self, artifact: Json, bundle: Json, threads: int) -> None:
        try:
            import onnxruntime
        except ImportError as e:
            raise DeviceError(f"onnxruntime cannot be imported ({e}): pip install onnxruntime") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        self.session = onnxruntime.InferenceSession(str(HERE / artifact["path"]), options, providers=["CPUExecutionProvider"])
        self.name = bundle["network"]["input"]
        self.version = "onnxruntime " + onnxruntime.__version__

    def run(self, x: Any) -> Any:
        """One inference."""
        return self.session.run(None, {self.name: x})[0]


class Tvm(Called):
    """TVM's virtual machine on the CPU."""

    def __init__(self, artifact: Json, bundle: Json, threads: int) -> None:
        os.environ["TVM_NUM_THREADS"] = str(threads or os.cpu_count() or 1)
        arch = artifact["facts"]["mtriple"].split("-")[0]
        if arch != platform.machine():
            raise DeviceError(f"{artifact['name']} was built for {arch} and this machine is {platform.machine()}")
        try:
            import tvm
            from tvm import relax
        except ImportError as e:
            raise DeviceError(f"TVM cannot be imported ({e}): pip install apache-tvm==0.26.0 apache-tvm-ffi==0.1.13.post3") from None
        library = tvm.runtime.load_module(str(HERE / artifact["path"]))
        self.main = relax.VirtualMachine(library, tvm.cpu())["main"]
        self.tensor = tvm.runtime.tensor
        self.version = "tvm " + tvm.__version__

    def run(self, x: Any) -> Any:
        """One inference."""
        return self.main(self.tensor(x)).numpy()


class TrtExec(Called):
    """TensorRT through trtexec, which times itself."""

    def __init__(self, artifact: Json, bundle: Json, threads: int) -> None:
        self.binary = os.environ.get("TRTEXEC") or shutil.which("trtexec") or TRTEXEC
        if not Path(self.binary).exists():
            raise DeviceError(f"trtexec is not at {self.binary}: install TensorRT, or set TRTEXEC to its path")
        self.engine = HERE / artifact["facts"]["engine"]
        if not self.engine.exists():
            raise DeviceError(f"{artifact['facts']['engine']} is not built yet: run ./build_engine.sh on this device first")
        self.input, self.flags = bundle["network"]["input"], artifact["facts"]["run_flags"]
        self.version = "tensorrt " + artifact["facts"]["tensorrt"]

    def _trtexec(self, *flags: str) -> None:
        status, text = call(self.binary, f"--loadEngine={self.engine}", *flags)
        if status:
            raise DeviceError(f"trtexec failed ({status}: {text[-200:]}); if TensorRT was updated, run ./build_engine.sh again")

    def run(self, x: Any) -> Any:
        """One inference, through files."""
        with tempfile.TemporaryDirectory() as tmp:
            raw, out = Path(tmp, "input.bin"), Path(tmp, "output.json")
            x.tofile(str(raw))
            self._trtexec(f"--loadInputs={self.input}:{raw}", f"--exportOutput={out}", "--iterations=1", "--duration=0", "--warmUp=0")
            values = json.loads(out.read_text())[0]["values"]
        return np.asarray(values, dtype=np.float32).reshape(x.shape)

    def measure(self, x: Any, seconds: float, count: int) -> list[float]:
        """Times in ms as trtexec exports them: without the copies to and from the device."""
        with tempfile.TemporaryDirectory() as tmp:
            out = Path(tmp, "times.json")
            self._trtexec(f"--exportTimes={out}", f"--iterations={count}", f"--duration={max(1, round(seconds))}", *self.flags)
            return [row["latencyMs"] for row in json.loads(out.read_text())]


class LiteRt(Called):
    """LiteRT with XNNPACK on the CPU; on an old device under its old name, tflite_runtime."""

    def __init__(self, artifact: Json, bundle: Json, threads: int) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter

            self.version = "ai-edge-litert " + installed("ai-edge-litert")
        except ImportError:
            try:
                from tflite_runtime.interpreter import Interpreter
            except ImportError as e:
                what = "pip install ai-edge-litert (Python 3.9 or older, or glibc older than 2.34: pip install tflite-runtime 'numpy<2')"
                raise DeviceError(f"LiteRT cannot be imported ({e}): {what}") from None
            self.version = "tflite-runtime " + installed("tflite-runtime")
        self.interpreter = Interpreter(model_path=str(HERE / artifact["path"]), num_threads=threads or os.cpu_count() or 1)
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
            raise DeviceError(f"openvino cannot be imported ({e}): pip install openvino") from None
        properties = {"NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
        properties.update({} if artifact["precision"] == "bf16" else {"INFERENCE_PRECISION_HINT": "f32"})
        properties.update({"INFERENCE_NUM_THREADS": threads} if threads else {})
        self.core, self.properties, self.requests = openvino.Core(), properties, {}
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


def installed(package: str) -> str:
    """Version of an installed package."""
    from importlib.metadata import version

    return version(package)


RUNTIMES = {"onnxruntime": OnnxRuntime, "tvm": Tvm, "tensorrt": TrtExec, "litert": LiteRt, "openvino": OpenVino}
