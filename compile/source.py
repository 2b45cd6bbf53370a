"""Which ONNX file of the model folder a backend takes, and its copy of fixed size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from eval.session import BuildRequest
from quantize.artifact import ModelFolder

if TYPE_CHECKING:
    import onnx

Source = Literal["float", "s8", "u8"]
"""A file of the model folder: the float one, or a Q/DQ flavour."""

IR_VERSION = 8
"""File-format version that came with opset 15 to 18: old parsers refuse a newer number even where nothing in the file needs it."""


def source_file(folder: ModelFolder, source: Source) -> Path:
    """Path of a file of the model folder; StageFailed when the network stayed in float and an int8 file is asked for."""
    return folder.float if source == "float" else folder.qdq(source)


def write_fixed(request: BuildRequest, source: Source, out: Path) -> onnx.ModelProto:
    """Write the network to ``out`` for the request's height and width, and return it."""
    import onnx

    from models.export import fix_size

    fix_size(source_file(ModelFolder(request.model), source), out, request.height, request.width)
    model = onnx.load(str(out))
    if model.ir_version > IR_VERSION:
        model.ir_version = IR_VERSION
        onnx.save(model, str(out))
    return model
