"""What the common tools make of a student in their plain path, for ``benchmarks/compile.py`` to compare with."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compile.candidates import Attempt, Plan
from compile.child import Child, ChildDied
from compile.onnxruntime.backend import onnxruntime_facts
from eval.session import Built
from quantize.artifact import ModelFolder

Batch = NDArray[np.float32]


def todays(folder: ModelFolder, batches: Sequence[Batch], work: Path, threads: int) -> Iterator[Attempt]:
    """OpenVINO's and ONNX Runtime's defaults, and LiteRT int8 by its own converter.

    Args:
        folder: the student; only its float file and its checkpoint are read.
        batches: float32 [1, 3, H, W] of one size, which int8 is calibrated on.
        work: for the artifacts.
        threads: CPU threads that they will run with.

    """
    made = {"openvino-default": openvino_default, "ort-int8": onnxruntime_int8, "litert-int8": litert_int8}
    for name, build in made.items():
        child = Child(name, work / f"{name}.log")
        try:
            built, words = child.call(build, folder.path, list(batches), work)
        except ChildDied as e:
            built, words = None, e.what
        child.close()
        yield Attempt(Plan("today", name, threads=threads), built, words)


def openvino_default(model: Path, batches: list[Batch], work: Path) -> tuple[Built | None, str]:
    """The float file with OpenVINO's own choice of precision, which is read back."""
    from compile.openvino.backend import OpenVinoSession

    path, (height, width) = ModelFolder(model).float, batches[0].shape[2:]
    executed = OpenVinoSession(path, "bf16").executed(height, width)  # "bf16" is the default: no precision is asked for
    facts = {"backend": "compile.openvino", "precision": "bf16", "height": 0, "width": 0, "runs_here": True, "executed": executed}
    return Built(path, facts), ""


def onnxruntime_int8(model: Path, batches: list[Batch], work: Path) -> tuple[Built | None, str]:
    """``quantize_static`` with its defaults: signed Q/DQ, min-max."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc] # the package has no types
        """Hands out the batches."""

        def __init__(self) -> None:
            self._rest = iter(batches)

        def get_next(self) -> dict[str, Batch] | None:
            """The next, or None."""
            batch = next(self._rest, None)
            return None if batch is None else {"lq": batch}

    out = work / "today-ort-int8.onnx"
    quantize_static(str(ModelFolder(model).float), str(out), Reader())
    return Built(out, onnxruntime_facts("int8")), ""


def litert_int8(model: Path, batches: list[Batch], work: Path) -> tuple[Built | None, str]:
    """``litert_torch.convert`` and ai-edge-quantizer's static int8 recipe."""
    lacking = [name for name in ("litert_torch", "ai_edge_quantizer", "ai_edge_litert") if importlib.util.find_spec(name) is None]
    if lacking:
        return None, f"{', '.join(lacking)} not installed: pip install litert-torch ai-edge-quantizer"
    import litert_torch
    import torch
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe

    from models import checkpoint

    network = checkpoint.load(ModelFolder(model).checkpoint).module.eval()
    rows: list[Any] = [np.ascontiguousarray(b.transpose(0, 2, 3, 1)) for b in batches]
    last = litert_torch.to_channel_last_io(network, args=[0], outputs=[0])
    plain, out = work / "today-litert-fp32.tflite", work / "today-litert-int8.tflite"
    litert_torch.convert(last.eval(), (torch.from_numpy(rows[0]),)).export(str(plain))
    tool = quantizer.Quantizer(str(plain), recipe.static_wi8_ai8())
    for end in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):  # images stay float, as everywhere in the table
        tool.update_quantization_recipe(".*", end, algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE)
    name = _input_name(plain)
    tool.quantize(tool.calibrate({"serving_default": [{name: row} for row in rows]})).export_model(str(out), overwrite=True)
    height, width = batches[0].shape[2:]
    return Built(out, {"backend": "compile.litert", "precision": "int8", "height": height, "width": width, "runs_here": True}), ""


def _input_name(path: Path) -> str:
    from ai_edge_litert.interpreter import Interpreter

    signature = Interpreter(model_path=str(path)).get_signature_list()["serving_default"]
    return str(signature["inputs"][0])
