"""Export to ONNX, and the facts that are asserted on the written file."""

from __future__ import annotations

import copy
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.spec import size_multiple
from pipeline.errors import StageFailed, UsageError

if TYPE_CHECKING:
    import onnx
    from torch import nn

INPUT, OUTPUT = "lq", "restored"
OPSET = 17


def export_onnx(module: nn.Module, path: Path, opset: int = OPSET, height: int | None = None, width: int | None = None) -> None:
    """Write ``module`` as a float32 ONNX file: input "lq", output "restored", batch 1.

    Args:
        module: the network, exported in eval mode as it stands.
        path: the file to write.
        opset: ONNX operator set; 17 is the newest that TensorRT 8.5 reads.
        height: of a fixed size in pixels, a multiple of the network's ``size_multiple``; without it, any size runs.
        width: likewise; both or neither.

    Raises:
        UsageError: a size that the network does not take.
        StageFailed: the written file has another opset, or is not valid ONNX.
    """
    size = _checked_size(size_multiple(module), height, width)
    _write_slim(traced(copy.deepcopy(module).eval(), opset, size), path, size or ("height", "width"), opset)


def traced(module: nn.Module, opset: int, size: tuple[int, int] | None = None, domain: str = "") -> onnx.ModelProto:
    """``module``, in eval mode, as torch traces it: nothing simplified yet.

    Args:
        module: the network.
        opset: ONNX operator set.
        size: (height, width) in pixels of a fixed size; None leaves both free.
        domain: of the module's own operators, version 1; "": there are none.
    """
    import onnx
    import torch

    multiple, free = size_multiple(module), {2: "height", 3: "width"}
    sample = torch.zeros(1, 3, *(size or (4 * multiple, 6 * multiple)), device=_device(module))
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), warnings.catch_warnings():
        # The legacy exporter is deprecated, but it alone writes opset 17 as asked for; tracing warns of every size check in Python.
        warnings.simplefilter("ignore")
        raw = Path(folder) / "raw.onnx"
        torch.onnx.export(
            module,
            (sample,),
            str(raw),
            dynamo=False,
            opset_version=opset,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes=None if size else {INPUT: free, OUTPUT: free},
            custom_opsets={domain: 1} if domain else None,
        )
        return onnx.load(str(raw))


def fix_size(path: Path, out: Path, height: int, width: int) -> None:
    """Write a copy of an ONNX file with free height and width for one fixed size, shapes folded (TVM and TensorRT want it so).

    Args:
        path: a file of ``export_onnx`` or one derived from it (Q/DQ nodes are kept).
        out: the file to write.
        height: in pixels, a multiple of the network's size multiple.
        width: likewise.

    Raises:
        StageFailed: the file is static already, at another size.
    """
    import onnx

    model = onnx.load(str(path))
    fixed = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]]
    if fixed not in ([0, 0], [height, width]):
        raise StageFailed(str(path), f"its input is fixed at {fixed[0]}x{fixed[1]}", f"cannot make it {height}x{width}")
    del model.graph.value_info[:]
    _write_slim(model, out, (height, width), opset_of(model))


def opset_of(model: Any) -> int:
    """Operator set of the standard domain that an ``onnx.ModelProto`` is written in."""
    return int(next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")))


def _checked_size(multiple: int, height: int | None, width: int | None) -> tuple[int, int] | None:
    if height is None and width is None:
        return None
    if height is None or width is None:
        raise UsageError("export", f"size {height}x{width}", "give both height and width, or neither")
    if height < 1 or width < 1 or height % multiple or width % multiple:
        raise UsageError("export", f"size {height}x{width}", f"height and width must be positive multiples of {multiple}")
    return height, width


def _device(module: nn.Module) -> Any:
    return next((p.device for p in module.parameters()), "cpu")


def _write_slim(model: Any, path: Path, size: tuple[int, int] | tuple[str, str], opset: int) -> None:
    import onnx
    import onnxslim

    for value in (model.graph.input[0], model.graph.output[0]):
        _set_shape(value, (1, 3, *size))
    slim = onnxslim.slim(model)
    found = opset_of(slim)
    if found != opset:
        raise StageFailed(str(path), f"the written file has opset {found}", f"opset {opset} was asked for: this exporter cannot write it")
    try:
        onnx.checker.check_model(slim, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as e:
        raise StageFailed(str(path), f"the written file is not valid ONNX ({e})", "please report the network's configuration") from e
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    onnx.save(slim, str(temporary))
    temporary.replace(path)


def _set_shape(value: Any, shape: tuple[int | str, ...]) -> None:
    for dim, side in zip(value.type.tensor_type.shape.dim, shape, strict=True):
        if isinstance(side, str):
            dim.dim_param = side
        else:
            dim.dim_value = side
