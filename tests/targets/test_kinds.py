from __future__ import annotations

import pytest

from targets.kinds import FRAME, kind_of, mode_of, units_of
from targets.layers import LayerCost


def conv(kernel: int = 3, stride: int = 1, incoming: int = 32, width: int = 48, side: int = 32, **more: object) -> LayerCost:
    pixels, weights = (side // stride) ** 2, incoming * width * kernel**2
    fields = {"op": "Conv", "depthwise": False, "precision": "fp32", **more}
    return LayerCost(
        "conv", fields["op"], fields["depthwise"], pixels * weights, side**2 * incoming, pixels * width, weights, fields["precision"]
    )


def pointwise_op(op: str, like: LayerCost, operands: int = 1, precision: str = "fp32") -> LayerCost:
    return LayerCost(op.lower(), op, False, 0, operands * like.write_elements, like.write_elements, 0, precision)


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (conv(1), "pointwise"),
        (conv(3), "dense"),
        (conv(3, stride=2), "dense"),
        (conv(5, incoming=64, width=24), "dense"),
        (conv(3, incoming=12), "narrow"),
        (conv(3, width=12), "narrow"),
        (conv(5, incoming=3, precision="int8"), "narrow"),
        (conv(1, width=12), "pointwise"),
        (conv(1, incoming=256, width=4, side=1), "pointwise"),
        (conv(3, depthwise=True), "depthwise"),
        (conv(2, op="ConvTranspose"), "deconv"),
        (LayerCost("fc", "Gemm", False, 4096, 64, 64, 4096, "fp32"), "pointwise"),
        (LayerCost("odd", "Conv", False, 10, 10, 10, 0, "fp32"), "pointwise"),
        (LayerCost("p", "GlobalAveragePool", False, 0, 100, 4, 0, "fp32"), "pool"),
        (LayerCost("s", "DepthToSpace", False, 0, 100, 100, 0, "fp32"), "shuffle"),
        (LayerCost("r", "Resize", False, 0, 100, 400, 0, "fp32"), "resize"),
    ],
)
def test_kinds(layer: LayerCost, kind: str):
    assert kind_of(layer) == kind


def test_units_of_a_residual_block():
    first, act = conv(3), pointwise_op("HardSwish", conv(3))
    last = conv(1, incoming=48)
    layers = [first, act, last, pointwise_op("Add", last, operands=2), pointwise_op("Add", last, operands=2)]
    resized = LayerCost("up", "Resize", False, 0, 100, 400, 0, "fp32")
    alone = LayerCost("add", "Add", False, 0, 800, 400, 0, "fp32")
    units = units_of([*layers, resized, alone])
    assert [u.kind for u in units] == [FRAME, "dense+hardswish", "pointwise", "+add", "+add", "resize", "add"]
    assert [u.layers for u in units] == [(), (0, 1), (2,), (3,), (4,), (5,), (6,)]
    assert (units[1].base, units[3].base) == ("dense", "add")
    assert units[1].macs == first.macs
    assert units[1].moved == 4 * (first.read_elements + first.write_elements + first.weight_elements)


def test_relu_is_free_everywhere_and_changes_no_kind():
    assert [u.kind for u in units_of([conv(3), pointwise_op("Relu", conv(3))])] == [FRAME, "dense"]


def test_an_activation_of_another_size_joins_nothing():
    assert [u.kind for u in units_of([conv(3), pointwise_op("Clip", conv(3, side=64))])] == [FRAME, "dense", "clip"]


def test_what_joins_an_int8_convolution_is_int8():
    layers = [conv(3, precision="int8"), pointwise_op("Add", conv(3), operands=2)]
    assert [u.precision for u in units_of(layers)] == ["int8"] * 3
    assert units_of(layers)[2].moved == 3 * layers[1].write_elements


def test_a_network_goes_by_its_lowest_precision():
    assert mode_of([conv(3), conv(1, precision="int8")]) == "int8"
    assert mode_of([pointwise_op("Add", conv(3)), conv(3, precision="fp16")]) == "fp16"
