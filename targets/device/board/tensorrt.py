"""TensorRT engines: through its Python package where the board has it, else through trtexec."""

import importlib
import importlib.util
import time
from typing import Any, List, Tuple

from board import trtexec
from board.basics import HERE, DeviceError, Json


class TensorRt:
    """An engine that was built on this board; one from elsewhere is refused before it is loaded."""

    def __init__(self, artifact: Json, bundle: Json, threads: int) -> None:
        self.facts, self.name = artifact["facts"], bundle["network"]["input"]
        self.path, self.binary, self.engine = HERE / self.facts["engine"], trtexec.find(), None  # type: Any, str, Any
        if not self.path.exists():
            raise DeviceError(f"{self.facts['engine']} is not built yet: run ./build_engine.sh on this device first")
        builder = importlib.import_module("build_engine")  # beside run.py
        try:
            reason = builder.check(self.facts, artifact["name"])
        except builder.BoardError as e:
            raise DeviceError(str(e)) from None
        if reason:
            raise DeviceError(reason)
        self.version = "tensorrt " + str(self.facts["tensorrt"])
        if importlib.util.find_spec("tensorrt") is not None:
            self._load(builder)
        elif not self.binary:
            what = "neither TensorRT's Python package nor trtexec is here ({}): apt-get install python3-libnvinfer, or set TRTEXEC"
            raise DeviceError(what.format(trtexec.DEFAULT))

    def _load(self, builder: Any) -> None:
        loader = importlib.import_module("trt_engine")
        try:
            self.engine = loader.Engine(self.path, builder.Cuda())
        except RuntimeError as e:
            raise DeviceError(f"{e}: run ./build_engine.sh again") from None

    @property
    def takes_pictures(self) -> bool:
        """Whether pictures can be put through it one after the other: trtexec loads the engine for each anew."""
        return self.engine is not None

    def timed(self, x: Any) -> Tuple[Any, float]:
        """One inference and its time in ms, with the copies to the GPU and back."""
        start = time.perf_counter()
        out = self.run(x)
        return out, (time.perf_counter() - start) * 1e3

    def run(self, x: Any) -> Any:
        """One inference: float32 [1, 3, H, W] to the same."""
        if self.engine is None:
            return trtexec.infer(self.binary, self.path, self.name, x)
        try:
            return self.engine.run(x)
        except (RuntimeError, ValueError) as e:
            raise DeviceError(f"TensorRT could not run the engine ({e})") from None

    def kernel_times(self, seconds: float, count: int) -> List[float]:
        """Times in ms of the kernels alone, as trtexec takes them; [] without it."""
        if not self.binary:
            return []
        return trtexec.measure(self.binary, self.path, self.facts["run_flags"], seconds, count)["compute"]

    def layer_times(self, x: Any) -> Json:
        """Times of the layers as trtexec takes them, ``x`` does not matter; {} without it."""
        return trtexec.profile(self.binary, self.path, self.facts["run_flags"]) if self.binary else {}

    def close(self) -> None:
        """Free the GPU's memory."""
        if self.engine is not None:
            self.engine.close()
