"""From a prepared network to Q/DQ ONNX files: one set of scales, one flavour of file per kind of runtime.

TensorRT wants signed integers with zero points 0 and float biases. ONNX Runtime fuses a convolution with the ReLU behind it only when
the unsigned zero point 0 already does the ReLU's work, and wants biases as int32 of scale (input x weight). Both files say the same
numbers; only values above 127 steps behind a ReLU, which s8 clips, pass in u8. Where such tensors are unsigned (``quantize.insert``),
s8 says them with a zero point of -128, and the two files say the same without exception; TensorRT takes neither then.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from models.export import opset_of, traced
from pipeline.errors import StageFailed
from quantize.artifact import Flavour
from quantize.flavours import write_flavour
from quantize.scales import Parameters

if TYPE_CHECKING:
    import onnx
    from torch import nn


def emit(network: nn.Module, parameters: Parameters, folder: Path, opset: int) -> None:
    """Write ``qdq_s8.onnx`` and ``qdq_u8.onnx`` into ``folder``: batch 1, any height and width.

    Args:
        network: prepared, with its final weights and scales.
        parameters: what ``quantize.scales.collect`` read from it.
        folder: must exist.
        opset: ONNX operator set.

    Raises:
        StageFailed: the written file has another opset or is no valid ONNX.
    """
    marked = export_marked(network, opset)
    for flavour in ("s8", "u8"):
        _write(flavoured(marked, parameters, flavour), folder / f"qdq_{flavour}.onnx", opset)


def export_marked(network: nn.Module, opset: int) -> onnx.ModelProto:
    """The prepared network as ONNX whose int8 tensors are marker nodes (``quantize.fake``)."""
    from quantize.fake import MARKER_DOMAIN

    return traced(network.eval(), opset, domain=MARKER_DOMAIN)


def flavoured(marked: onnx.ModelProto, parameters: Parameters, flavour: Flavour) -> onnx.ModelProto:
    """A copy of ``marked`` with its markers replaced by one flavour of Q/DQ nodes: batch 1, any height and width."""
    import onnx

    from quantize.fake import MARKER_DOMAIN

    model = onnx.ModelProto()
    model.CopyFrom(marked)
    write_flavour(model, parameters, flavour)
    domains = [d for d in model.opset_import if d.domain != MARKER_DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(domains)
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        _set_shape(value)
    return model


def _set_shape(value: onnx.ValueInfoProto) -> None:
    for dim, size in zip(value.type.tensor_type.shape.dim, (1, 3, "height", "width"), strict=True):
        if isinstance(size, str):
            dim.dim_param = size
        else:
            dim.dim_value = size


def _write(model: onnx.ModelProto, path: Path, opset: int) -> None:
    import onnx
    import onnxslim

    slim = onnxslim.slim(model)
    try:
        onnx.checker.check_model(slim, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as e:
        raise StageFailed(
            str(path), f"the written file is not valid ONNX ({e})", "please report it with the network's configuration"
        ) from e
    onnx.save(slim, str(path))
    written = opset_of(onnx.load(str(path), load_external_data=False))
    if written != opset:
        raise StageFailed(str(path), f"the written file has opset {written}", f"opset {opset} was asked for: this exporter cannot write it")
