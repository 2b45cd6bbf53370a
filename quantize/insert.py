"""Where the quantizers go: one per activation tensor that an int8 operator reads or writes.

A convolution and the activation behind it are one operator. Tensors that one operator only moves, interpolates or concatenates share
one scale, so that no runtime has to rescale them. Squeeze-and-excite, and the sum that adds the network's input at the end, stay float.
"""

from __future__ import annotations

import copy
import platform
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from models.spec import size_multiple
from pipeline.errors import StageFailed
from pipeline.machine import cpu_flags
from quantize.fake import ActivationQuantizer, QuantConv2d, QuantConvTranspose2d, quantized_conv
from quantize.trace import INPUT, Call, Role, Trace, trace

QuantConv = QuantConv2d | QuantConvTranspose2d
_SHARES_SCALE = (Role.MOVE, Role.RESIZE, Role.CONCAT)
_OPERATORS = {Role.ADD: "Add", Role.CONCAT: "Concat", Role.RESIZE: "Resize"}
_INPUT_NAME = "lq"
_PROBE = 64
_VNNI = {"avx512_vnni", "avx_vnni"}


def prepare(network: nn.Module, unsigned: bool = False) -> nn.Module:
    """A copy of ``network`` with fake quantizers in place, all scales 1 until they are calibrated.

    Args:
        network: on the CPU, batch normalization already folded (``models.fold``), with ``size_multiple``.
        unsigned: tensors that cannot be negative get 255 steps above 0 instead of 127. TensorRT, whose zero points are 0, cannot take them.

    Raises:
        StageFailed: nothing in it can be quantized, or an operator reads a tensor that no module made.
    """
    ready = copy.deepcopy(network).eval()
    multiple = size_multiple(ready)
    side = max(1, _PROBE // multiple) * multiple
    seen = trace(ready, torch.zeros(1, 3, side, side))
    tensors = _quantized_tensors(seen)
    if not tensors:
        raise StageFailed(type(network).__name__, "has no convolution that could run in int8", "quantize a network built of modules")
    made = _make_quantizers(seen, tensors, unsigned)
    _attach(ready, seen, made)
    return ready


def takes_unsigned(target: Any, asked: bool | Literal["auto"]) -> bool:
    """Whether tensors that cannot be negative get 255 steps: as asked, or where nothing runs int8 on the target's GPU.

    Nor do they on this machine where it is an x86 without VNNI: ONNX Runtime adds two products there in 16 bits, which 2 x 127 x 127 fits
    and 2 x 255 x 127 does not.

    Args:
        target: a ``pipeline.target.TargetView`` that reads ``backends`` and ``is_host``.
        asked: setting of the quantize stage.
    """
    if asked != "auto":
        return asked
    if target.is_host and platform.machine() == "x86_64" and not cpu_flags() & _VNNI:
        return False
    return not any(b.runs_on == "gpu" and "int8" in b.precisions for b in target.backends)


def quantizers(network: nn.Module) -> dict[str, ActivationQuantizer]:
    """The activation quantizers of a prepared network by tensor name, in the order of computation."""
    found = {m.name: m for m in network.modules() if isinstance(m, ActivationQuantizer)}
    return dict(sorted(found.items(), key=lambda item: item[1].order))


def convolutions(network: nn.Module) -> dict[str, QuantConv]:
    """The convolutions of a prepared network that can run in int8, by module name."""
    return {m.name: m for m in network.modules() if isinstance(m, QuantConv)}


def int8_operators(network: nn.Module) -> Counter[str]:
    """How many sums, concatenations and interpolations of a prepared network read and write int8, by ONNX operator."""
    return Counter(q.operator for q in quantizers(network).values() if q.operator and q.enabled and all(r.enabled for r in q.reads))


def set_float(network: nn.Module, names: Iterable[str]) -> None:
    """Put these activation tensors, and all that share their scale, to float; every other one to int8."""
    found = quantizers(network)
    for quantizer in found.values():
        quantizer.enabled = True
    for name in names:
        found[name].enabled = False


def set_rounding(network: nn.Module, rounds: bool) -> None:
    """Whether tensors that are not float are rounded, and weights with them, or only cut to their range (``quantize.fake``)."""
    for quantizer in quantizers(network).values():
        quantizer.rounds = rounds


def set_all_float(network: nn.Module) -> None:
    """Compute as the float network does."""
    set_float(network, quantizers(network))


def _quantized_tensors(seen: Trace) -> set[int]:
    needed: set[int] = set()
    for call in reversed(seen.calls):
        if _is_operator(call, seen):
            needed.update(call.inputs)
            needed.add(call.output)
        elif call.role is Role.MOVE and call.output in needed:
            needed.update(i for i in call.inputs if i != INPUT)
        elif call.role is Role.ACTIVATION and _fused(call, seen):
            needed.add(call.output)
    inner = {c.inputs[0] for c in seen.calls if c.role is Role.ACTIVATION and _fused(c, seen)}
    return needed - inner - seen.pooled


def _is_operator(call: Call, seen: Trace) -> bool:
    if any(i in seen.pooled for i in call.inputs):
        return False
    if call.role is Role.ADD:
        return INPUT not in call.inputs
    return call.role in (Role.CONV, Role.CONCAT, Role.RESIZE)


def _fused(activation: Call, seen: Trace) -> bool:
    made_by = seen.producer.get(activation.inputs[0])
    return made_by is not None and _is_operator(made_by, seen) and made_by.role is Role.CONV and len(seen.consumers[made_by.output]) == 1


def _make_quantizers(seen: Trace, tensors: set[int], unsigned: bool) -> dict[int, ActivationQuantizer]:
    leaders, pictures = _leaders(seen, tensors), _images(seen)
    signed = {leaders[n] for n in tensors if n not in seen.non_negative or not unsigned}
    computed = {leaders[n] for n in tensors if n not in pictures}
    made: dict[int, ActivationQuantizer] = {}
    for number in sorted(tensors, key=lambda n: (leaders[n] != n, n)):
        call = seen.producer.get(number)
        if call is None and number != INPUT:
            reader = seen.consumers[number][0].name
            what = f"'{reader}' reads a tensor that was computed outside of any module"
            raise StageFailed(
                "quantize", what, "make every operation of the network a module (Add, Concat, Mul in models/student/blocks.py)"
            )
        leader = None if leaders[number] == number else made[leaders[number]]
        name = call.name if call else _INPUT_NAME
        exact, unsigned_too = _is_exact(call, tensors), leaders[number] not in signed
        made[number] = ActivationQuantizer(name, number, number in seen.non_negative, leader, exact=exact, unsigned=unsigned_too)
        made[number].is_picture = leaders[number] not in computed
    for chain in _corrections(seen):
        group = {leaders[n] for n in chain & tensors}
        if len(group) == 1 and {n for n in tensors if leaders[n] in group} <= chain:
            made[group.pop()].corrects_picture = True
    return made


def _images(seen: Trace) -> set[int]:
    """The network's input, and what only moves its values."""
    found = {INPUT}
    for call in seen.calls:
        if call.role is Role.MOVE and all(i in found for i in call.inputs):
            found.add(call.output)
    return found


def _corrections(seen: Trace) -> Iterator[set[int]]:
    """What is added to the network's input to make its output, and what it is moved from; where nothing else reads any of it."""
    for call in seen.calls:
        if call.role is Role.ADD and INPUT in call.inputs and not seen.consumers[call.output]:
            chain = [n for n in call.inputs if n != INPUT][:1]
            while chain and (maker := seen.producer.get(chain[-1])) is not None and maker.role is Role.MOVE:
                chain.append(maker.inputs[0])
            if all(len(seen.consumers[n]) == 1 for n in chain):
                yield set(chain)


def _leaders(seen: Trace, tensors: set[int]) -> dict[int, int]:
    """Tensor -> the first tensor of the group that shares its scale."""
    leader = {n: n for n in tensors}

    def find(n: int) -> int:
        while leader[n] != n:
            n = leader[n]
        return n

    for call in seen.calls:
        if call.role in _SHARES_SCALE and call.output in tensors:
            group = {find(n) for n in (*call.inputs, call.output) if n in tensors}
            first = min(group)
            leader.update(dict.fromkeys(group, first))
    return {n: find(n) for n in tensors}


def _is_exact(call: Call | None, tensors: set[int]) -> bool:
    if call is None or not all(i in tensors for i in call.inputs):
        return False
    nearest = isinstance(call.module, nn.Upsample) and call.module.mode == "nearest"
    return nearest or call.role in (Role.MOVE, Role.CONCAT)


def _attach(network: nn.Module, seen: Trace, made: dict[int, ActivationQuantizer]) -> None:
    for call in _first_calls(seen):
        module = call.module
        if _is_operator(call, seen) and call.role is Role.CONV and isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module = quantized_conv(module, call.name, made[call.inputs[0]])
            module.result = _result(call, seen, made)
            _replace(network, call.name, module)
            if call.inputs[0] == INPUT:
                module.add_module("input_quantizer", made[INPUT])
                module.register_forward_pre_hook(_quantize_input)
        if call.output in made:
            made[call.output].operator = _OPERATORS.get(call.role, "") if _is_operator(call, seen) else ""
            made[call.output].reads = tuple(made[i] for i in call.inputs if i in made)
            module.add_module("quantizer", made[call.output])
            module.register_forward_hook(_quantize_output)


def _result(conv: Call, seen: Trace, made: dict[int, ActivationQuantizer]) -> str:
    readers = [conv, *(c for c in seen.consumers[conv.output] if c.role is Role.ACTIVATION)]
    return next((made[c.output].name for c in readers if c.output in made), "")


def _first_calls(seen: Trace) -> Iterator[Call]:
    names: set[str] = set()
    for call in seen.calls:
        if call.name in names:
            what = f"'{call.name}' is called more than once, so one scale would serve several tensors"
            raise StageFailed("quantize", what, "give each call a module of its own")
        names.add(call.name)
        yield call


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)


def _quantize_output(module: Any, args: tuple[Any, ...], out: Tensor) -> Any:
    return module.quantizer(out)


def _quantize_input(module: Any, args: tuple[Tensor, ...]) -> Any:
    return module.input_quantizer(args[0])
