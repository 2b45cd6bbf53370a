"""The OpenVINO backend.

OpenVINO decides by itself in which precision a network runs: its default on a CPU with bfloat16 instructions is bf16, whatever the file
says. Here a precision is a promise: it is asked for by name, read back from the compiled network, and a build that broke it fails.
In int8 the promise is about the convolutions that the Q/DQ file has in integers; those that it left in float (squeeze-and-excite, whose
gates are computed from one pixel) run in f32, and are counted.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from compile.source import Source, source_file
from eval.session import Backend, BuildRequest, Built, Session
from pipeline.errors import StageFailed
from quantize.artifact import ModelFolder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CONVOLUTIONS = ("Convolution", "Deconvolution")

NAMED = 6
"""Layers that a note names."""

SIZES = 4
"""Networks that a session keeps, one for each image size: a fixed size runs up to a tenth faster than a free one."""


@dataclass(frozen=True, slots=True)
class Precision:
    """A precision of the backend.

    source    file of the model folder
    hint      what OpenVINO is told; empty leaves its own default
    executed  what convolutions must run in, in OpenVINO's words
    floats    precision of the layers that are not int8
    """

    source: Source
    hint: str
    executed: tuple[str, ...]
    floats: str


PRECISIONS = {
    "fp32": Precision("float", "f32", ("f32",), "fp32"),
    "bf16": Precision("float", "", ("bf16",), "bf16"),
    "int8": Precision("u8", "f32", ("u8", "i8"), "fp32"),
}


class OpenVinoBackend(Backend):
    """Hands OpenVINO the ONNX file as it is; "bf16" is OpenVINO's own default, where that is bf16."""

    name: ClassVar[str] = "openvino"
    toolchain: ClassVar[tuple[str, ...]] = ("openvino",)
    needs: ClassVar[str] = "`pip install openvino`"

    def missing(self) -> str:
        """Empty when OpenVINO is installed."""
        return "" if importlib.util.find_spec("openvino") else "pip install openvino"

    def _build(self, request: BuildRequest) -> Built:
        if request.precision not in PRECISIONS:
            raise StageFailed("compile.openvino", f"has no {request.precision}", f"it has: {', '.join(PRECISIONS)}")
        precision = PRECISIONS[request.precision]
        out = request.workdir / f"openvino-{request.precision}.onnx"
        shutil.copyfile(source_file(ModelFolder(request.model), precision.source), out)
        facts = {"backend": "compile.openvino", "precision": request.precision, "height": 0, "width": 0, "runs_here": True}
        facts |= {"source": precision.source, "float_precision": precision.floats}
        with OpenVinoSession(out, request.precision) as session:
            executed = session.executed(request.height, request.width)
            found = session.convolutions(request.height, request.width)
        written = convolutions_of(out)
        ran = {name: found.get(name, "nothing of its name") for name in written}
        promised = [name for name, integer in written.items() if integer or request.precision != "int8"]
        check(request.precision, ran, promised)
        notes = _notes(ran, promised, sorted(written.keys() - set(promised)))
        return Built(out, {**facts, "openvino": session.version, "executed": executed, "notes": notes})

    def _open(self, path: Path, facts: Mapping[str, Any], threads: int) -> Session:
        return OpenVinoSession(path, str(facts["precision"]), threads)


class OpenVinoSession(Session):
    """An ONNX file in OpenVINO, compiled anew for each image size.

    Args:
        path: the file.
        precision: of ``PRECISIONS``.
        threads: CPU threads; 0 leaves the number to OpenVINO.

    Raises:
        StageFailed: the runtime cannot read the file.

    """

    def __init__(self, path: Path, precision: str, threads: int = 1) -> None:
        super().__init__()
        import openvino

        self.version = str(openvino.__version__)
        self._core = _core()
        hint = PRECISIONS[precision].hint
        self._properties = {"NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY", **({"INFERENCE_PRECISION_HINT": hint} if hint else {})}
        if threads:
            self._properties["INFERENCE_NUM_THREADS"] = threads
        try:
            self._model = self._core.read_model(str(path))
        except RuntimeError as e:
            raise StageFailed(str(path), f"OpenVINO cannot read it ({str(e).strip().splitlines()[-1]})", "build it again") from e
        self._requests: OrderedDict[tuple[int, ...], Any] = OrderedDict()

    def executed(self, height: int, width: int) -> dict[str, dict[str, int]]:
        """What runs at an image size: kind of layer -> precision that it was compiled to ("f32", "bf16", "u8", ...) -> how many."""
        found: dict[str, Counter[str]] = {}
        for kind, precision, _ in self._layers(height, width):
            if kind not in ("Const", "Input", "Output"):
                found.setdefault(kind, Counter())[precision] += 1
        return {kind: dict(sorted(counts.items())) for kind, counts in sorted(found.items())}

    def convolutions(self, height: int, width: int) -> dict[str, str]:
        """The precision that convolutions were compiled to, by the names that they and what was fused with them have in the file."""
        layers = [(names.split(","), precision) for kind, precision, names in self._layers(height, width) if kind in CONVOLUTIONS]
        return {name.removesuffix("/WithoutBiases"): precision for names, precision in layers for name in names}

    def _layers(self, height: int, width: int) -> Iterator[tuple[str, str, str]]:
        """Kind and precision of each compiled layer, and what it was made from."""
        for node in self._request((1, 3, height, width)).get_compiled_model().get_runtime_model().get_ops():
            info = node.get_rt_info()
            yield _text(info["layerType"]), _text(info["runtimePrecision"]), _text(info["originalLayersNames"])

    def close(self) -> None:
        """Free the compiled networks."""
        super().close()
        self._requests.clear()

    def _run(self, lq: NDArray[np.float32]) -> NDArray[np.float32]:
        request = self._request(lq.shape)
        request.infer([lq], share_inputs=True)
        out: NDArray[np.float32] = request.get_output_tensor(0).data.copy()
        return out

    def _request(self, shape: tuple[int, ...]) -> Any:
        if shape not in self._requests:
            model = self._model.clone()
            model.reshape({0: list(shape)})
            self._requests[shape] = self._core.compile_model(model, "CPU", self._properties).create_infer_request()
            if len(self._requests) > SIZES:
                self._requests.popitem(last=False)
        self._requests.move_to_end(shape)
        return self._requests[shape]


@cache
def _core() -> Any:
    """OpenVINO, opened once and never closed.

    Its CPU plugin gives the thread that loads it an alternate signal stack, and frees that when the last core goes. Where another thread
    lets go of it, the first one keeps a stack that is no longer there, and the next signal that it handles ends the process.
    """
    import openvino

    return openvino.Core()


def _text(value: Any) -> str:
    as_type: Callable[[type], object] | None = getattr(value, "astype", None)  # rt_info holds strings, or boxes with strings inside
    return str(as_type(str) if as_type else value)


def convolutions_of(path: Path) -> dict[str, bool]:
    """Names of the convolutions of an ONNX file, and whether each reads integers and has integer weights."""
    import onnx

    nodes = onnx.load(str(path)).graph.node
    integers = {n.output[0] for n in nodes if n.op_type == "DequantizeLinear"}
    return {n.name: integers.issuperset(n.input[:2]) for n in nodes if n.op_type in ("Conv", "ConvTranspose")}


def check(precision: str, ran: Mapping[str, str], promised: Collection[str]) -> None:
    """Hold a compiled network to its precision.

    Args:
        precision: of ``PRECISIONS``.
        ran: name of a convolution -> what it was compiled to.
        promised: those that must run in the precision.

    Raises:
        StageFailed: one of them does not, or there is none.

    """
    other = [name for name in promised if ran[name] not in PRECISIONS[precision].executed]
    if other or not promised:
        found = ", ".join(f"{count} in {kind}" for kind, count in sorted(Counter(ran.values()).items())) or "there are none"
        first = f"; not in it: '{other[0]}'" if other else ""
        what = f"{precision} is not what runs on this CPU (convolutions: {found}{first})"
        raise StageFailed("compile.openvino", what, "use another precision of this backend")


def _notes(ran: Mapping[str, str], promised: Collection[str], rest: Sequence[str]) -> list[str]:
    """Which convolutions run in float, as the file has them."""
    if not rest:
        return []
    share = f"{len(promised)} of {len(promised) + len(rest)} convolutions run in int8"
    named = ", ".join(f"{name} in {ran[name]}" for name in rest[:NAMED]) + (", ..." if len(rest) > NAMED else "")
    return [f"{share}; the others are float in the Q/DQ file: {named}"]
