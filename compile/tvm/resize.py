"""Bilinear up-sampling by two as two short sums, in place of the general resize that computes coordinates for every pixel.

With half-pixel centres each output is 3/4 of the nearest and 1/4 of the next pixel along each axis, the border repeated
(ONNX ``Resize``, mode linear, coordinate_transformation_mode half_pixel, scales 2).
"""

from __future__ import annotations

from typing import Any


def legalize_resize(builder: Any, call: Any) -> Any:
    """Lower ``relax.image.resize2d``: doubling by two sums, anything else as TVM does it."""
    import tvm

    if _is_doubling(call):
        return builder.call_te(double, call.args[0], primfunc_name_hint="double")
    return tvm.ir.Op.get("relax.image.resize2d").get_attr("FLegalize")(builder, call)


def _is_doubling(call: Any) -> bool:
    attrs = call.attrs
    if (attrs.method, attrs.layout, attrs.coordinate_transformation_mode) != ("linear", "NCHW", "half_pixel"):
        return False
    before, after = (_shape(e) for e in (call.args[0], call))
    return [2 * d for d in before[2:]] == after[2:] and not attrs.out_dtype


def _shape(expr: Any) -> list[int]:
    return [int(d) for d in (getattr(expr, "ty", None) or expr.struct_info).shape]


def double(x: Any) -> Any:
    """TE tensor [N, C, H, W] -> [N, C, 2H, 2W], in two steps: "double_rows" (lines), then "double_cols"."""
    from tvm import te, tirx

    n, c, h, w = x.shape
    near, far = (tirx.const(v, x.dtype) for v in (0.75, 0.25))

    def neighbour(i: Any, size: Any) -> Any:
        return te.max(te.min(i // 2 + i % 2 * 2 - 1, size - 1), 0)

    rows = te.compute(
        (n, c, 2 * h, w), lambda b, k, i, j: near * x[b, k, i // 2, j] + far * x[b, k, neighbour(i, h), j], name="double_rows"
    )
    return te.compute(
        (n, c, 2 * h, 2 * w), lambda b, k, i, j: near * rows[b, k, i, j // 2] + far * rows[b, k, i, neighbour(j, w)], name="double_cols"
    )
