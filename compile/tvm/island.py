"""An ONNX node that no kernel covers, as a Relax function over TVM's own operators."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from compile.tvm.steps import FloatStep, Plain

if TYPE_CHECKING:
    from numpy.typing import NDArray


def add_island(builder: Any, step: FloatStep, opset: int, name: str) -> Any:
    """Add the function of one node to a module.

    Args:
        builder: ``relax.BlockBuilder`` of the module.
        step: the node.
        opset: ONNX operator set of the node.
        name: of the function; private, so that it is inlined where it is called.

    Returns:
        The function's global variable. It takes the node's inputs that are not constant.

    """
    imported = _imported(step, opset)
    moved = {v: builder.add_func(f, f"{name}_{v.name_hint}") for v, f in imported.functions.items() if v.name_hint != "main"}
    function = imported["main"].without_attr("global_symbol")
    return builder.add_func(_with_globals(function, moved), name)


def _imported(step: FloatStep, opset: int) -> Any:
    from onnx import helper, numpy_helper
    from tvm.relax.frontend.onnx import from_onnx

    inputs = [_info(v.name, v.shape) for v in step.inputs if isinstance(v, Plain)]
    out = [_info(step.out.name, step.out.shape)] if isinstance(step.out, Plain) else []
    constants = [numpy_helper.from_array(_as_known(step, np.asarray(v)), name) for name, v in step.constants.items()]
    graph = helper.make_graph([step.node], "island", inputs, out, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells of every name that it shortens
        return from_onnx(model, keep_params_in_input=False)


def _as_known(step: FloatStep, constant: NDArray[Any]) -> NDArray[Any]:
    """The slopes of a PRelu as TVM's importer knows them: with as many dimensions as the image."""
    if step.node.op_type != "PRelu" or constant.ndim < 2:
        return constant
    return constant.reshape((1,) * (len(step.out.shape) - constant.ndim) + constant.shape) if isinstance(step.out, Plain) else constant


def _info(name: str, shape: tuple[int, ...]) -> Any:
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def _with_globals(function: Any, moved: dict[Any, Any]) -> Any:
    """The function calling others under their new names."""
    from tvm import relax

    if not moved:
        return function
    by_name = {old.name_hint: new for old, new in moved.items()}

    @relax.expr_functor.mutator
    class Renamer(relax.PyExprMutator):  # type: ignore[misc] # TVM is not typed
        def visit_global_var_(self, op: Any) -> Any:
            return by_name.get(op.name_hint, op)

    return Renamer().visit_expr(function)
