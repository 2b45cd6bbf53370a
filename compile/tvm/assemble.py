"""From steps to a Relax module: one kernel per step through ``call_tir``, TVM's own operators for what no kernel covers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from compile.tvm.cpu import Cpu
from compile.tvm.fuse import borders
from compile.tvm.island import add_island
from compile.tvm.kernels import conv as dense
from compile.tvm.kernels import depthwise, edges, elementwise, resize
from compile.tvm.kernels.finish import Finish
from compile.tvm.kernels.tensors import Place
from compile.tvm.steps import (
    AddStep,
    ConcatStep,
    ConvStep,
    FloatStep,
    FromPlainStep,
    GateStep,
    MeanStep,
    Network,
    Plain,
    ResizeStep,
    ShuffleAddStep,
    SpreadStep,
    Step,
    Tensor,
    ToPlainStep,
    UnshuffleStep,
    Value,
)
from compile.tvm.tiles import Tiles

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(slots=True)
class Packed:
    """The constants of a convolution as they lie in the library: weights, biases, and multipliers for integers."""

    name: str
    constants: tuple[NDArray[Any], ...]


@dataclass(slots=True)
class Assembled:
    """A Relax module, the constants in it, and the names of the nodes that TVM's own operators compute."""

    module: Any
    constants: list[Packed] = field(default_factory=list)
    islands: list[str] = field(default_factory=list)


def assemble(network: Network, cpu: Cpu, tiles: Tiles, opset: int) -> Assembled:
    """Write the module. Its function "main" takes the image float32 [1, C, H, W] and returns the restored one."""
    return _Assembler(network, cpu, tiles, opset).run()


_SIMPLE: dict[type[Step], Callable[[list[Place], Place, bool], Any]] = {
    AddStep: lambda places, out, neon: elementwise.build_add(places[0], places[1], out, neon),
    ConcatStep: elementwise.build_concat,
    SpreadStep: lambda places, out, neon: elementwise.build_spread(places[0], out),
    GateStep: lambda places, out, neon: elementwise.build_gate(places[0], places[1], out, neon),
    MeanStep: lambda places, out, neon: elementwise.build_mean(places[0], out),
}


class _Assembler:
    """Emits the steps in order."""

    def __init__(self, network: Network, cpu: Cpu, tiles: Tiles, opset: int) -> None:
        from tvm import relax

        self.network, self.cpu, self.tiles, self.opset = network, cpu, tiles, opset
        self.pads = borders(network)
        self.builder = relax.BlockBuilder()
        self.vars: dict[str, Any] = {}
        self.kernels: dict[str, Any] = {}
        self.done = Assembled(None)

    def run(self) -> Assembled:
        from tvm import relax

        sources = [relax.Var(f"source{i}", self._type(v)) for i, v in enumerate(self.network.sources)]
        self.vars.update({v.name: var for v, var in zip(self.network.sources, sources, strict=True)})
        with self.builder.function("main", sources):
            with self.builder.dataflow():
                for step in self.network.steps:
                    self.vars[step.out.name] = self._emit(step)
                result = self.builder.emit_output(self.vars[self.network.result.name])
            self.builder.emit_func_output(result)
        self.done.module = self.builder.get()
        return self.done

    def _emit(self, step: Step) -> Any:
        if isinstance(step, FloatStep):
            return self._island(step)
        if isinstance(step, ConvStep):
            return self._conv(step)
        return self._call(step, self._kernel(step), [])

    def _kernel(self, step: Step) -> Any:
        """The kernel of a step without constants."""
        places = [self._place(v) for v in step.inputs if isinstance(v, Tensor)]
        if isinstance(step, ShuffleAddStep | ToPlainStep):
            return self._to_plain(step, places[0])
        out = self._place(step.out)
        if isinstance(step, ResizeStep):
            finish = Finish("", step.grid, out, places[1] if len(places) > 1 else None, self.cpu.neon)
            return self._once(("resize", places[0], step.mode, finish), lambda: resize.build_resize(places[0], step.mode, finish))
        if isinstance(step, UnshuffleStep | FromPlainStep):
            return self._from_plain(step, out)
        build = _SIMPLE[type(step)]
        return self._once((type(step).__name__, *places, out), lambda: build(places, out, self.cpu.neon))

    def _to_plain(self, step: ShuffleAddStep | ToPlainStep, source: Place) -> Any:
        channels = _channels(step.out)
        if isinstance(step, ToPlainStep):
            return self._once(("to plain", source, channels), lambda: edges.build_to_plain(source, channels))
        return self._once(("shuffle", source, channels, step.factor), lambda: edges.build_shuffle_add(source, channels, step.factor))

    def _from_plain(self, step: UnshuffleStep | FromPlainStep, out: Place) -> Any:
        channels = _channels(step.inputs[0])
        if isinstance(step, FromPlainStep):
            return self._once(("from plain", channels, out), lambda: edges.build_from_plain(channels, out))
        return self._once(
            ("unshuffle", channels, step.factor, out), lambda: edges.build_unshuffle(channels, step.factor, out, self.cpu.neon)
        )

    def _conv(self, step: ConvStep) -> Any:
        source, out = (self._place(v) for v in (step.inputs[0], step.out))
        finish = Finish(step.activation, step.grid, out, self._place(step.inputs[1]) if len(step.inputs) > 1 else None, self.cpu.neon)
        real = source.number
        held, bias = (v.astype(real.dtype) if real.is_float else v for v in (step.weight, step.bias))
        if step.depthwise:
            spec = depthwise.Depthwise(source, step.weight.shape[2], step.stride, step.pad, finish)
            tile = self.tiles.depthwise(spec)
            kernel = self._once((spec, tile), lambda: depthwise.build_depthwise(spec, self.cpu, tile))
            lanes = spec.lanes(self.cpu)
            weight = depthwise.pack_depthwise(held, source, lanes, self.cpu.dot.halves)
        else:
            shape = dense.Conv(source, len(step.weight), step.weight.shape[2], step.stride, step.pad, finish)
            tile = self.tiles.dense(shape)
            kernel = self._once((shape, tile), lambda: dense.build_conv(shape, self.cpu, tile))
            lanes = dense.format_of(shape, self.cpu).lanes
            weight = dense.pack(held, source, lanes, tile.vectors, self.cpu.dot.halves)
        total = -(-(source.channels if step.depthwise else len(step.weight)) // lanes) * lanes
        constants = [weight, *(_padded(v, total) for v in (bias, step.multiplier) if v is not None)]
        self.done.constants.append(Packed(step.name, tuple(constants)))
        return self._call(step, kernel, constants)

    def _call(self, step: Step, kernel: Any, constants: list[NDArray[Any]]) -> Any:
        from tvm import relax

        first, *rest = (self.vars[v.name] for v in step.inputs)
        arguments = [first, *(relax.const(c) for c in constants), *rest]
        return self.builder.emit(relax.call_tir(kernel, arguments, self._type(step.out)))

    def _type(self, value: Value) -> Any:
        from tvm import relax

        if isinstance(value, Plain):
            return relax.TensorType(value.shape, "float32")
        return relax.TensorType((self._place(value).size,), value.number.dtype)

    def _island(self, step: FloatStep) -> Any:
        from tvm import relax

        self.done.islands.append(step.name)
        function = add_island(self.builder, step, self.opset, f"island{len(self.done.islands)}")
        return self.builder.emit(relax.Call(function, [self.vars[v.name] for v in step.inputs]))

    def _place(self, value: Value) -> Place:
        if isinstance(value, Plain):
            raise TypeError(f"{value.name} is not packed")
        return value.place(self.pads.get(value.name, 0))

    def _once(self, key: Any, build: Any) -> Any:
        """A kernel of the module; equal ones are built once."""
        text = repr(key)
        if text not in self.kernels:
            self.kernels[text] = self.builder.add_func(build(), f"kernel{len(self.kernels)}")
        return self.kernels[text]


def _padded(values: NDArray[Any], length: int) -> NDArray[Any]:
    """Zeros behind."""
    out = np.zeros(length, values.dtype)
    out[: len(values)] = values
    return out


def _channels(value: Value) -> int:
    return value.channels if isinstance(value, Tensor) else value.shape[1]
