"""Writing the model folder: float file, Q/DQ files, scales, checkpoint, facts; all checked as they lie on disk."""

from __future__ import annotations

import shutil
from pathlib import Path

from torch import nn

from models import checkpoint
from models.export import export_onnx
from models.spec import size_multiple
from quantize.artifact import CHECKPOINT, FLOAT, ModelFacts, ModelFolder, write_facts, write_scales
from quantize.emit import emit
from quantize.insert import int8_operators
from quantize.lint import lint
from quantize.scales import Parameters, collect


def write_folder(
    path: Path, folded: nn.Module, arch: str, opset: int, quantized: nn.Module | None = None, history: list[dict[str, object]] | None = None
) -> ModelFolder:
    """Write a model folder, replacing what is there.

    Args:
        path: the folder.
        folded: the float network, batch norm folded.
        arch: its architecture's name.
        opset: ONNX operator set of the files.
        quantized: prepared form with final weights and scales; None writes the float files alone.
        history: what was done to the weights, for the checkpoint.

    Raises:
        StageFailed: a written file has another opset, is no valid ONNX, or is not what TensorRT takes as int8.
    """
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    export_onnx(folded, path / FLOAT, opset)
    checkpoint.save(path / CHECKPOINT, folded, arch, history=history or [])
    parameters = collect(quantized) if quantized is not None else None
    if quantized is not None and parameters is not None:
        emit(quantized, parameters, path, opset)
        write_scales(path, parameters.to_json())
        operators, partial = int8_operators(quantized), bool(parameters.float_tensors)
        lint(path / "qdq_s8.onnx", opset, convs=len(parameters.weights), partial=partial, operators=operators, unsigned=parameters.unsigned)
    write_facts(path, _facts(folded, arch, opset, parameters))
    return ModelFolder(path)


def _facts(folded: nn.Module, arch: str, opset: int, parameters: Parameters | None) -> ModelFacts:
    shared = {"arch": arch, "size_multiple": size_multiple(folded), "opset": opset}
    if parameters is None:
        return ModelFacts.model_validate({**shared, "precisions": ("fp32",)})
    return ModelFacts.model_validate(
        {
            **shared,
            "precisions": ("fp32", "int8"),
            "quantized_convs": len(parameters.weights),
            "quantized_tensors": len(parameters.activations),
            "unsigned": parameters.unsigned,
            "float_tensors": parameters.float_tensors,
            "scale_range": parameters.scale_range(),
        }
    )
