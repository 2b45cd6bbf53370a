from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from eval.cost import onnx_layers, rates_of, shapes_of, sized_graph
from pipeline.errors import StageFailed
from pipeline.target import Calibration, load_target

HEIGHT, WIDTH, OUT = 8, 12, 5


@pytest.fixture
def products(tmp_path: Path) -> Path:
    """The image's rows times a matrix, and times each other."""
    weight = numpy_helper.from_array(np.ones((WIDTH, OUT), np.float32), "w")
    nodes = [
        helper.make_node("MatMul", ["lq", "w"], ["narrow"], "by_weight"),
        helper.make_node("Transpose", ["lq"], ["turned"], "turn", perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["lq", "turned"], ["restored"], "by_itself"),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, "h", "w"]) for n in ("lq", "restored")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "products.onnx")
    return tmp_path / "products.onnx"


def test_a_product_of_matrices_takes_what_it_sums_over(products: Path):
    found = {layer.name: layer for layer in onnx_layers(products, HEIGHT, WIDTH)}
    assert found["by_weight"].macs == 3 * HEIGHT * OUT * WIDTH
    assert found["by_itself"].macs == 3 * HEIGHT * HEIGHT * WIDTH
    assert (found["by_weight"].weight_elements, found["by_itself"].weight_elements) == (WIDTH * OUT, 0)
    assert found["turn"].macs == 0


def test_a_graph_at_a_size_tells_its_shapes(products: Path):
    shapes = shapes_of(sized_graph(products, HEIGHT, WIDTH))
    assert shapes["lq"] == (1, 3, HEIGHT, WIDTH)
    assert shapes["restored"] == (1, 3, HEIGHT, HEIGHT)


def test_threads_have_their_share_of_the_cores_and_what_was_calibrated_with_as_many():
    target = load_target("jetson-xavier")
    measured = tuple(Calibration(backend="tvm", precision="int8", threads=n, costs=(), networks=9, error=0.1) for n in (1, 8))
    cpu = target.rates["cpu"].model_copy(update={"calibrations": measured})
    target = target.model_copy(update={"rates": {**target.rates, "cpu": cpu}})
    one, all_cores, many = (rates_of(target, "cpu", n) for n in (1, target.cpu.cores, 99))
    assert {k: v * target.cpu.cores for k, v in one.macs.items()} == pytest.approx(cpu.macs)
    assert all_cores.macs == many.macs == cpu.macs
    assert (one.calibrations, all_cores.calibrations, many.calibrations) == (measured[:1], measured[1:], ())
    assert one.bandwidth_gbs == cpu.bandwidth_gbs
    assert rates_of(target, "gpu", 1) is target.rates["gpu"]


def test_a_target_without_rates_is_named():
    target = load_target("raspberry-pi-5")
    with pytest.raises(StageFailed, match=r"target raspberry-pi-5: states no rates for its gpu\nhint: add them to the target file"):
        rates_of(target, "gpu", 1)
