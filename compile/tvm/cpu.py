"""What the kernels must know of a CPU: its vector registers, and the instruction that sums four products of bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from compile.tvm.kernels.vectors import broadcast, call, lanes_of, reinterpret, shuffle

Word = Any
"""An expression of type int32 x lanes: four bytes in each lane."""

Split = Callable[[Word], tuple[Any, ...]]
Mac = Callable[[Any, tuple[Any, ...], tuple[Any, ...]], Any]


@dataclass(frozen=True, slots=True)
class Dot:
    """acc[l] += a0 w0 + a1 w1 + a2 w2 + a3 w3 over the bytes of the words a[l] and w[l], exact in int32.

    activation, weight  bring a word into the form that ``mac`` takes; done once for each loaded word
    mac                 (accumulator, prepared activation, prepared weight) -> accumulator
    copies              (words, i) -> word i in every lane, prepared as an activation; by default ``activation`` of such a word
    halves              weights lie with the first two bytes of every word before the last two
    """

    activation: Split
    weight: Split
    mac: Mac
    copies: Callable[[Word, int], tuple[Any, ...]] | None = None
    halves: bool = False


@dataclass(frozen=True, slots=True)
class Cpu:
    """A CPU as the kernels see it.

    name        key of the shipped tile sizes: the core's LLVM name
    form        which of the dot-product forms it has
    lanes       32-bit values in a vector register
    registers   vector registers
    activation  "uint8" or "int8": the type of activations that ``dot`` multiplies with int8 weights
    by_lane     an operand of ``dot`` may be one lane of a register
    half        computes in float16
    """

    name: str
    form: Literal["vnni512", "vnni256", "avx2", "sdot", "smull", "plain"]
    lanes: int
    registers: int
    activation: Literal["uint8", "int8"]
    by_lane: bool = False
    half: bool = False

    @property
    def neon(self) -> bool:
        """Whether it has the vector instructions of aarch64."""
        return self.form in ("sdot", "smull")

    @property
    def dot(self) -> Dot:
        """The sum of four products of bytes in this CPU's instructions."""
        return _DOTS[self.form]

    @property
    def flavour(self) -> Literal["u8", "s8"]:
        """The Q/DQ file whose activations ``dot`` takes."""
        return "u8" if self.activation == "uint8" else "s8"


IN_ORDER = ("cortex-a34", "cortex-a35", "cortex-a53", "cortex-a55")
"""Cores that execute instructions in the order in which they come, by LLVM's names."""


def target_of(kind: Mapping[str, Any]) -> Any:
    """The ``tvm.target.Target`` of a dictionary, tuned for these kernels; raises what TVM raises for one that it does not know.

    Where products need registers of their own (aarch64 without dot product), LLVM's scheduler would put all of them before the sums and
    spill; told not to look at latencies it leaves the order of the kernels. Cores that execute in order need what it does.
    """
    from tvm.target import Target

    target = Target(dict(kind))
    cpu = cpu_of(target)
    if cpu.form != "smull" or cpu.name in IN_ORDER:
        return target
    return Target({**kind, "mattr": [*kind.get("mattr", ()), "+disable-latency-sched-heuristic"]})


def cpu_of(target: Any) -> Cpu:
    """The CPU of a ``tvm.target.Target`` of kind llvm."""
    from tvm.target.codegen import llvm_cpu_has_features

    name, triple = str(target.attrs.get("mcpu", "")), str(target.attrs.get("mtriple", ""))
    if triple.startswith("aarch64"):
        has_dot, half = (llvm_cpu_has_features(f, target) for f in ("dotprod", "fullfp16"))
        return Cpu(name, "sdot" if has_dot else "smull", 4, 32, "int8", by_lane=has_dot, half=half)
    if not triple.startswith("x86_64"):
        return Cpu(name, "plain", 4, 16, "int8")
    if llvm_cpu_has_features("avx512vnni", target):
        return Cpu(name, "vnni512", 16, 32, "uint8")
    if llvm_cpu_has_features("avxvnni", target):
        return Cpu(name, "vnni256", 8, 16, "uint8")
    if llvm_cpu_has_features("avx2", target):
        return Cpu(name, "avx2", 8, 16, "uint8")
    return Cpu(name, "plain", 4, 16, "uint8")


def _bytes(signed: bool) -> Split:
    def split(word: Word) -> tuple[Any, ...]:
        return (reinterpret(f"{'' if signed else 'u'}int8x{4 * lanes_of(word)}", word),)

    return split


def _vnni(bits: int) -> Dot:
    def mac(acc: Any, a: tuple[Any, ...], w: tuple[Any, ...]) -> Any:
        return call(f"int32x{bits // 32}", f"llvm.x86.avx512.vpdpbusd.{bits}", acc, a[0], w[0])

    return Dot(_bytes(signed=False), _bytes(signed=True), mac)


def _sdot() -> Dot:
    def mac(acc: Any, a: tuple[Any, ...], w: tuple[Any, ...]) -> Any:
        return call("int32x4", "llvm.aarch64.neon.sdot.v4i32.v16i8", acc, w[0], a[0])  # the last may be one lane of a register

    return Dot(_bytes(signed=True), _bytes(signed=True), mac)


def _smull() -> Dot:
    """Products of weights within ±127: two of them fit 16 bits, so that one instruction adds neighbours to the 32-bit sums of four."""

    def activation(word: Word) -> tuple[Any, ...]:
        (values,) = _bytes(signed=True)(word)
        return tuple(shuffle([values], [4 * lane + i for lane in range(4) for i in pair]) for pair in ((0, 1), (2, 3)))

    def weight(word: Word) -> tuple[Any, ...]:
        (values,) = _bytes(signed=True)(word)
        return shuffle([values], range(8)), shuffle([values], range(8, 16))

    def copies(words: Word, i: int) -> tuple[Any, ...]:
        pairs = [broadcast(first | (first + 1) << 8, "int16", 4) for first in (4 * i, 4 * i + 2)]
        table = reinterpret("int8x16", shuffle(pairs, range(8)))
        return weight(reinterpret("int32x4", call("int8x16", "llvm.aarch64.neon.tbl1.v16i8", reinterpret("int8x16", words), table)))

    def mac(acc: Any, a: tuple[Any, ...], w: tuple[Any, ...]) -> Any:
        first, second = (call("int16x8", "llvm.aarch64.neon.smull.v8i16", x, y) for x, y in zip(a, w, strict=True))
        return acc + call("int32x4", "llvm.aarch64.neon.saddlp.v4i32.v8i16", first + second)

    return Dot(activation, weight, mac, copies, halves=True)


def _avx2() -> Dot:
    """Bytes 0 and 2, and bytes 1 and 3, as pairs of 16-bit values for vpmaddwd; unlike vpmaddubsw it cannot saturate."""

    def activation(word: Word) -> tuple[Any, ...]:
        n = lanes_of(word)
        mask, eight = broadcast(0x00FF00FF, "int32", n), broadcast(8, "int32", n)
        return tuple(reinterpret(f"int16x{2 * n}", part & mask) for part in (word, word >> eight))

    def weight(word: Word) -> tuple[Any, ...]:
        pairs = reinterpret(f"int16x{2 * lanes_of(word)}", word)
        eight = broadcast(8, "int16", 2 * lanes_of(word))
        return (pairs << eight) >> eight, pairs >> eight

    def mac(acc: Any, a: tuple[Any, ...], w: tuple[Any, ...]) -> Any:
        for x, y in zip(a, w, strict=True):
            acc = acc + call("int32x8", "llvm.x86.avx2.pmadd.wd", x, y)
        return acc

    return Dot(activation, weight, mac)


def _plain(signed: bool) -> Dot:
    """Shifts and multiplications that every CPU has."""

    def byte(word: Word, position: int, sign: bool) -> Any:
        n = lanes_of(word)
        if sign:
            return (word << broadcast(24 - 8 * position, "int32", n)) >> broadcast(24, "int32", n)
        return (word >> broadcast(8 * position, "int32", n)) & broadcast(255, "int32", n)

    def mac(acc: Any, a: tuple[Any, ...], w: tuple[Any, ...]) -> Any:
        for x, y in zip(a, w, strict=True):
            acc = acc + x * y
        return acc

    return Dot(lambda v: tuple(byte(v, i, signed) for i in range(4)), lambda v: tuple(byte(v, i, True) for i in range(4)), mac)


_DOTS: dict[str, Dot] = {
    "vnni512": _vnni(512),
    "vnni256": _vnni(256),
    "avx2": _avx2(),
    "sdot": _sdot(),
    "smull": _smull(),
    "plain": _plain(signed=False),
}
