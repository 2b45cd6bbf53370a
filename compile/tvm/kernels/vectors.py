"""Short names for the vector expressions of TIR. TVM is imported by whoever builds a kernel, not by importing this."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any


def type_of(value: Any) -> str:
    """Type of an expression, e.g. "float32x16"."""
    return str(value.ty)


def lanes_of(value: Any) -> int:
    """Number of values in an expression: 1 for a scalar."""
    _, _, lanes = type_of(value).rpartition("x")
    return int(lanes) if lanes.isdigit() else 1


def typed(scalar: str, lanes: int) -> str:
    """Type of a vector, e.g. "int32x16"; with one lane, that of the scalar."""
    return scalar if lanes == 1 else f"{scalar}x{lanes}"


def broadcast(value: Any, scalar: str, lanes: int) -> Any:
    """``lanes`` copies of a number or of a scalar expression."""
    from tvm import tirx

    one = tirx.const(value, scalar) if isinstance(value, int | float) else value
    return one if lanes == 1 else tirx.Broadcast(one, lanes)


def reinterpret(dtype: str, value: Any) -> Any:
    """The same bits as another type."""
    from tvm import tirx

    return tirx.reinterpret(dtype, value)


def cast(scalar: str, value: Any) -> Any:
    """Every lane converted."""
    from tvm import tirx

    wanted = typed(scalar, lanes_of(value))
    return value if type_of(value) == wanted else tirx.Cast(wanted, value)


def call(dtype: str, intrinsic: str, *operands: Any) -> Any:
    """An LLVM intrinsic without side effects."""
    from tvm import tirx

    return tirx.call_llvm_pure_intrin(dtype, intrinsic, *operands)


def shuffle(values: Sequence[Any], picks: Iterable[int]) -> Any:
    """Lanes of the concatenation of ``values``, in the order of ``picks``."""
    from tvm import tirx

    chosen = list(picks)
    if len(values) == 1 and chosen == list(range(lanes_of(values[0]))):
        return values[0]
    return tirx.Shuffle(list(values), [tirx.const(i, "int32") for i in chosen])


def join(values: Sequence[Any]) -> Any:
    """Vectors behind each other."""
    return shuffle(values, range(sum(lanes_of(v) for v in values)))


def clamp(value: Any, low: float, high: float) -> Any:
    """Every lane of a float vector within [low, high]; infinite bounds cost nothing."""
    from tvm import tirx

    dtype, n = type_of(value).split("x")[0], lanes_of(value)
    if low > -float("inf"):
        value = tirx.Max(value, broadcast(float(low), dtype, n))
    return value if high == float("inf") else tirx.Min(value, broadcast(float(high), dtype, n))


def load(buffer: Any, start: Any, lanes: int) -> Any:
    """Neighbouring values of a flat buffer."""
    from tvm import tirx

    return tirx.BufferLoad(buffer, [start if lanes == 1 else tirx.Ramp(index(start), tirx.const(1, "int32"), lanes)])


def store(buffer: Any, start: Any, value: Any) -> None:
    """Write neighbouring values of a flat buffer, in the kernel that is being built."""
    from tvm import tirx
    from tvm.script.ir_builder import tirx as ib

    lanes = lanes_of(value)
    ib.buffer_store(buffer, value, [start if lanes == 1 else tirx.Ramp(index(start), tirx.const(1, "int32"), lanes)])


def index(value: Any) -> Any:
    """A Python number as an int32 constant; expressions stay."""
    from tvm import tirx

    return tirx.const(value, "int32") if isinstance(value, int) else value


def let(value: Any) -> Any:
    """Compute an expression here, once."""
    from tvm.script.ir_builder import tirx as ib

    return ib.bind(value)


def serial(count: int) -> AbstractContextManager[Any]:
    """A loop of the kernel that is being built."""
    from tvm.script.ir_builder import tirx as ib

    return ib.serial(0, count)  # type: ignore[no-any-return] # TVM is not typed


def parallel(count: int) -> AbstractContextManager[Any]:
    """A loop over threads."""
    from tvm.script.ir_builder import tirx as ib

    return ib.parallel(0, count)  # type: ignore[no-any-return] # TVM is not typed
