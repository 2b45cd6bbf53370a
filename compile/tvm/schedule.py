"""Loop schedules for the operators of a restoration network on a CPU, by rule.

The layout stays NCHW and nothing is packed. A convolution computes a register tile of several output channels times several vectors
of neighbouring pixels: each step broadcasts one weight per channel and loads the pixels once, so that every load feeds a full tile of
multiply-adds. What follows the convolution (bias, activation, residual) is computed on the tile before it is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Vectors:
    """The vector registers of a CPU: float32 values in one, and how many of them accumulate (the rest hold operands)."""

    lanes: int
    accumulators: int


PIXEL_VECTORS = 4
"""Vectors of neighbouring pixels in a tile: with the accumulators of today's CPUs that leaves 3 or 6 channels."""


def schedule_module(mod: Any, vectors: Vectors) -> tuple[Any, list[str]]:
    """Schedule every TIR function of a Relax module that is not scheduled yet.

    Args:
        mod: legalized and fused module.
        vectors: what the CPU has.

    Returns:
        The module, and the names of the functions that no rule fits: they run, but as plain loops.

    """
    from tvm import tirx

    plain = []
    for var, func in list(mod.functions.items()):
        if not isinstance(func, tirx.PrimFunc) or func.attrs.get("tirx.is_scheduled"):
            continue
        scheduled = schedule_function(func, vectors)
        if scheduled is None:
            plain.append(var.name_hint)
        else:
            mod[var] = scheduled.with_attr("tirx.is_scheduled", True)
    return mod, sorted(plain)


def schedule_function(func: Any, vectors: Vectors) -> Any | None:
    """Schedule one TIR function, or None when no rule fits it."""
    import tvm
    from tvm.s_tir import Schedule, ScheduleError

    sch = Schedule(tvm.IRModule({"main": func}))
    blocks = Blocks(sch)
    rule = _rule(blocks)
    if rule is None:
        return None
    try:
        rule(sch, blocks, vectors)
    except ScheduleError:
        return None
    return sch.mod["main"]


class Blocks:
    """The computation steps of a function, in order of execution."""

    def __init__(self, sch: Any) -> None:
        self.all = list(sch.get_child_blocks(sch.get_sblock("root")))
        self.names = [sch.get(b).name_hint for b in self.all]
        self.last = self.all[-1]
        self.reductions = [b for b in self.all if any(int(v.iter_type) == _REDUCE for v in sch.get(b).iter_vars)]
        convs = [i for i, name in enumerate(self.names) if name in ("conv2d_nchw", "group_conv2d_nchw")]
        self.conv = self.all[convs[0]] if convs else None
        self.pad = self.all[convs[0] - 1] if convs and convs[0] else None
        self.grouped = bool(convs) and self.names[convs[0]].startswith("group")
        self.shape = _extents(sch, self.conv) if self.conv is not None else {}
        self.out = _written(sch, self.last)
        # one number per plane: neither windows, as a pooling has, nor several passes, as a softmax has
        self.means = len(self.reductions) == 1 and all(d == 1 for d in _written(sch, self.reductions[0])[2:])


_REDUCE = 2  # tirx.IterVar.CommReduce
Rule = Callable[[Any, Blocks, Vectors], None]


def _rule(blocks: Blocks) -> Rule | None:
    if blocks.conv is None:
        return _elementwise if not blocks.reductions else _mean if blocks.means else None
    if blocks.out[2:] != [blocks.shape["v_yy"], blocks.shape["v_xx"]]:
        return _gate
    return _depthwise if blocks.grouped else _dense


def _dense(sch: Any, blocks: Blocks, vectors: Vectors) -> None:
    shape, pad, last = blocks.shape, _prepare_pad(sch, blocks), _prepare_epilogue(sch, blocks)
    lanes = divisor(shape["v_xx"], vectors.lanes)
    n, co, y, x = sch.get_loops(last)
    row = shape["v_xx"] // lanes
    tile = pixel_tile(row)
    if pad is None and row < PIXEL_VECTORS:  # whole rows, else the tile's pixels have no simple coordinates
        tile = row * divisor(shape["v_yy"], PIXEL_VECTORS // row)
    outer, inner = sch.split(co, [None, divisor(shape["v_ff"], max(1, vectors.accumulators // tile))])
    if pad is None:  # 1x1: rows are one long line
        rows, xi, lane = sch.split(sch.fuse(y, x), [None, tile, lanes])
        sch.reorder(n, rows, outer, inner, xi, lane)
    else:
        xo, xi, lane = sch.split(x, [None, tile, lanes])
        sch.reorder(n, y, xo, outer, inner, xi, lane)
        rows = y
        sch.parallel(sch.fuse(*sch.get_loops(pad)[:2]))
    sch.parallel(sch.fuse(n, rows))
    _tile(sch, blocks.conv, last, outer, lanes)


def _depthwise(sch: Any, blocks: Blocks, vectors: Vectors) -> None:
    shape, pad, last = blocks.shape, _prepare_pad(sch, blocks), _prepare_epilogue(sch, blocks)
    lanes = divisor(shape["v_xx"], vectors.lanes)
    n, co, y, x = sch.get_loops(last)
    xo, xi, lane = sch.split(x, [None, pixel_tile(shape["v_xx"] // lanes), lanes])
    yo, yi = sch.split(y, [None, divisor(shape["v_yy"], PIXEL_VECTORS)])
    sch.reorder(n, co, yo, xo, yi, xi, lane)
    channel = sch.fuse(n, co)
    sch.parallel(channel)
    _tile(sch, blocks.conv, last, xo, lanes)
    if pad is not None:  # one channel fits the cache
        sch.compute_at(pad, channel)


def _tile(sch: Any, conv: Any, last: Any, at: Any, lanes: int) -> None:
    """Compute ``conv`` where ``last`` needs it: at the loop ``at``, reductions outside, the tile unrolled and vectorised inside."""
    for loop in sch.get_loops(last)[-3:-1]:
        sch.unroll(loop)
    sch.vectorize(sch.get_loops(last)[-1])
    sch.compute_at(conv, at, preserve_unit_loops=True)
    *_, n, co, y, x, rc, ry, rx = sch.get_loops(conv)
    sch.reorder(rc, ry, rx, n, co, y, x)
    xi, lane = sch.split(x, [None, lanes])
    for loop in (ry, rx, n, co, y, xi):
        sch.unroll(loop)
    sch.vectorize(lane)  # before the split into start value and update: afterwards TVM no longer knows it as a reduction
    start = sch.decompose_reduction(conv, rc)
    for loop in sch.get_loops(start)[-5:-1]:
        sch.unroll(loop)


def _prepare_pad(sch: Any, blocks: Blocks) -> Any | None:
    """Drop a padding that pads nothing; for stride 2, store even and odd columns apart so that a vector of pixels lies together."""
    if blocks.pad is None:
        return None
    stride = _stride(sch, blocks.conv)
    if stride == 1 and _is_copy(sch, blocks.pad):
        sch.compute_inline(blocks.pad)
        return None
    if stride == 2 and int(sch.get(blocks.pad).writes[0].buffer.shape[3]) % 2 == 0:
        sch.transform_layout(blocks.pad, ("write", 0), lambda n, c, h, w: [n, c, h, w % 2, w // 2])
    return blocks.pad


def _prepare_epilogue(sch: Any, blocks: Blocks) -> Any:
    """Melt what follows the convolution into one step; make one when nothing follows."""
    if sch.get(blocks.last).same_as(sch.get(blocks.conv)):
        return sch.cache_write(blocks.conv, 0, "global")
    for block in blocks.all[blocks.all.index(blocks.conv) + 1 : -1]:
        sch.compute_inline(block)
    return blocks.last


def _gate(sch: Any, blocks: Blocks, vectors: Vectors) -> None:
    """A 1x1 convolution on one pixel whose result scales whole planes (squeeze and excite): computed once per plane."""
    for block in blocks.all[:-1]:
        if block is not blocks.conv:
            sch.compute_inline(block)
    n, co, *_ = sch.get_loops(blocks.last)
    plane = sch.fuse(n, co)
    sch.parallel(plane)
    sch.compute_at(blocks.conv, plane)


def _mean(sch: Any, blocks: Blocks, vectors: Vectors) -> None:
    """A reduction over each plane: as many partial sums as a vector holds, then their sum."""
    total = blocks.reductions[0]
    spatial = sum(int(v.iter_type) != _REDUCE for v in sch.get(total).iter_vars)
    line = sch.fuse(*sch.get_loops(total)[spatial:])
    _, lane = sch.split(line, [None, divisor(int(sch.get(line).extent), vectors.lanes)])
    partial = sch.rfactor(lane, spatial)
    plane = sch.fuse(*sch.get_loops(blocks.last)[:2])
    sch.parallel(plane)
    for block in [b for b in blocks.all if b is not blocks.last][::-1]:
        sch.compute_at(block, plane)
    sch.compute_at(partial, plane)
    steps = sch.get_loops(partial)
    sch.reorder(steps[-1], steps[-2])
    sch.vectorize(steps[-2])
    sch.decompose_reduction(partial, steps[-1])


def _elementwise(sch: Any, blocks: Blocks, vectors: Vectors) -> None:
    """Everything in one pass; LLVM vectorises the innermost loop, strided accesses of pixel shuffles included."""
    lines = [b for b, name in zip(blocks.all, blocks.names, strict=True) if name == "double_rows"]
    for block in blocks.all[:-1]:
        if block not in lines:
            sch.compute_inline(block)
    loops = sch.get_loops(blocks.last)
    if len(loops) > 2:
        sch.parallel(sch.fuse(*loops[:-2]))
    for block in lines:
        sch.compute_at(block, sch.get_loops(blocks.last)[-2])


def pixel_tile(row: int) -> int:
    """Return how many of a row's vectors a tile takes: a divisor up to ``PIXEL_VECTORS``, up to twice that where only 1 is left."""
    best = divisor(row, PIXEL_VECTORS)
    return best if best > 1 else divisor(row, 2 * PIXEL_VECTORS)


def divisor(n: int, at_most: int) -> int:
    """Return the largest divisor of ``n`` that is not above ``at_most``."""
    return max(d for d in range(1, max(1, at_most) + 1) if n % d == 0)


def _written(sch: Any, block: Any) -> list[int]:
    return [int(d) for d in sch.get(block).writes[0].buffer.shape]


def _extents(sch: Any, block: Any) -> dict[str, int]:
    return {v.var.name: int(v.dom.extent) for v in sch.get(block).iter_vars}


def _stride(sch: Any, conv: Any) -> int:
    """How far the input moves in x when the output moves by one."""
    from tvm import arith, tirx

    block = sch.get(conv)
    x = next(v.var for v in block.iter_vars if v.var.name == "v_xx")
    zero, one = (tirx.const(k, "int64") for k in (0, 1))  # as the shapes of Relax
    others = {v.var: zero for v in block.iter_vars if not v.var.same_as(x)}
    steps = []
    for read in block.reads:
        first, second = (tirx.stmt_functor.substitute(read.region[-1].min, {**others, x: k}) for k in (zero, one))
        steps.append(int(arith.Analyzer().simplify(second - first)))
    return max(steps)


def _is_copy(sch: Any, pad: Any) -> bool:
    block = sch.get(pad)
    return [int(d) for d in block.reads[0].buffer.shape] == [int(d) for d in block.writes[0].buffer.shape]
