"""Rounding and narrowing in the instructions of aarch64: LLVM makes twice as many from the general form."""

from __future__ import annotations

from typing import Any

from compile.tvm.kernels.vectors import broadcast, call, join, lanes_of, shuffle, type_of


def narrowed(steps: Any, zero: int, dtype: str) -> Any:
    """float32 -> 8-bit integers: to nearest, ties to even (fcvtns), plus ``zero``; out of range becomes the nearest bound (sqxtn).

    Args:
        steps: a multiple of 4 lanes.
        zero: added after rounding.
        dtype: "int8" or "uint8".

    """
    halves = []
    for four in parts(steps, 4):
        whole = call("int32x4", "llvm.aarch64.neon.fcvtns.v4i32.v4f32", four)
        halves.append(call("int16x4", "llvm.aarch64.neon.sqxtn.v4i16", whole))
    narrow = {"int8": "sqxtn", "uint8": "sqxtun"}[dtype]
    out = []
    for i in range(0, len(halves), 2):
        pair = join([halves[i], halves[min(i + 1, len(halves) - 1)]])  # an odd one fills the register with itself
        if zero:
            pair = call("int16x8", "llvm.aarch64.neon.sqadd.v8i16", pair, broadcast(zero, "int16", 8))
        out.append(call(f"{dtype}x8", f"llvm.aarch64.neon.{narrow}.v8i8", pair))
    values = join(out) if len(out) > 1 else out[0]
    return values if lanes_of(values) == lanes_of(steps) else shuffle([values], range(lanes_of(steps)))


def parts(value: Any, lanes: int) -> list[Any]:
    """A vector cut into vectors of ``lanes``."""
    return [shuffle([value], range(first, first + lanes)) for first in range(0, lanes_of(value), lanes)]


def limited(value: Any, low: float, high: float) -> Any:
    """Every lane within [low, high]: of 8-bit integers, or of floats, where NaN stays and infinite bounds cost nothing."""
    scalar, n = type_of(value).split("x")[0], lanes_of(value)
    for bound, name in ((low, "max"), (high, "min")):
        if scalar in _BOUNDS and bound != _BOUNDS[scalar][name == "min"]:
            value = call(type_of(value), f"llvm.{scalar[0].replace('i', 's')}{name}.v{n}i8", value, broadcast(int(bound), scalar, n))
        elif scalar not in _BOUNDS and abs(bound) < float("inf"):
            value = call(type_of(value), f"llvm.{name}imum{_suffix(scalar, n)}", value, broadcast(float(bound), scalar, n))
    return value


_BOUNDS = {"int8": (-128, 127), "uint8": (0, 255)}


def _suffix(scalar: str, lanes: int) -> str:
    """How LLVM names a float type, e.g. ".v4f32"."""
    return f".{f'v{lanes}' if lanes > 1 else ''}f{scalar.removeprefix('float')}"
