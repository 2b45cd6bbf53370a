"""The lint accepts what we write and names what is wrong with anything else."""

import re

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from torch import nn

from models.export import export_onnx
from models.student.blocks import Add, Concat, SqueezeExcite
from pipeline.errors import StageFailed
from quantize.emit import export_marked, flavoured
from quantize.folder import write_folder
from quantize.insert import int8_operators, set_float
from quantize.lint import QdqGraph, _count_faults, lint
from quantize.scales import collect
from tests.quantize.toys import SMALL, quantized, student


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folded, ready = quantized(student(**{**SMALL, "skip": "concat"}))
    return write_folder(tmp_path_factory.mktemp("model") / "model", folded, "student", 17, ready)


@pytest.fixture
def model(folder):
    return onnx.load(folder.qdq("s8"))


def initializer(model, name):
    return next(i for i in model.graph.initializer if i.name == name)


def replace(model, name, array):
    initializer(model, name).CopyFrom(numpy_helper.from_array(array, name))


def node(model, name):
    return next(n for n in model.graph.node if n.name == name)


def check(model, folder, tmp_path, match, opset=17, partial=False):
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    with pytest.raises(StageFailed, match=match) as e:
        lint(path, opset, folder.facts.quantized_convs, partial)
    assert str(path) in str(e.value)
    assert "TensorRT would not run it as int8" in str(e.value)


def bypass(model, name):
    """Take a Q/DQ pair out, so that its readers see the float tensor."""
    quantize, dequantize = node(model, f"{name}.quantize"), node(model, f"{name}.dequantize")
    for reader in model.graph.node:
        for i, tensor in enumerate(reader.input):
            if tensor == dequantize.output[0]:
                reader.input[i] = quantize.input[0]


def test_what_we_write_passes(folder):
    lint(folder.qdq("s8"), 17, folder.facts.quantized_convs)


def test_an_unquantized_graph_cannot_pass(folder, tmp_path):
    check(onnx.load(folder.float), folder, tmp_path, f"0 quantized convolutions where {folder.facts.quantized_convs} are expected")
    with pytest.raises(StageFailed, match="0 quantized convolutions where 1 are expected"):
        lint(folder.float, 17, 0)


def test_the_unsigned_flavour_cannot_pass(folder):
    with pytest.raises(StageFailed, match=r"bias.dequantize is int32; .* and \d+ more"):
        lint(folder.qdq("u8"), 17, folder.facts.quantized_convs)


def written(tmp_path, **config):
    folded, ready = quantized(student(**{**SMALL, **config}))
    return folded, ready, QdqGraph(write_folder(tmp_path / "model", folded, "student", 17, ready).qdq("s8"))


def modules(network, kind):
    return sum(type(m) is kind for m in network.modules())


def test_convolution_batch_normalisation_and_activation_are_one_int8_operator(tmp_path):
    _, _, graph = written(tmp_path)
    assert graph.of_type("BatchNormalization") == []
    for name in ("stem.act", "encoder.0.0.expand.act"):
        relu = graph.producers[node(graph.model, f"{name}.quantize").input[0]]
        assert relu.op_type == "Relu"
        assert graph.producers[relu.input[0]] in graph.quantized_convs()
    found = graph.quantized_operators()
    assert found["Conv"] + found["depthwise"] == len(graph.quantized_convs())


def test_depthwise_convolutions_have_a_scale_per_channel(tmp_path):
    folded, _, graph = written(tmp_path, high_scales=0, depths=[1, 2, 2])
    want = [m for m in folded.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert graph.quantized_operators()["depthwise"] == len(want) > 0
    shapes = {graph.scale(graph.dequantizer(n.input[1])).shape for n in graph.quantized_convs()}
    assert {(m.out_channels,) for m in want} <= shapes


def test_residual_sums_read_and_write_int8_except_the_last(tmp_path):
    folded, ready, graph = written(tmp_path, depths=[1, 2, 2])
    assert graph.quantized_operators()["Add"] == int8_operators(ready)["Add"] == modules(folded, Add) - 1 > 2


def test_concatenated_skips_share_one_scale(tmp_path):
    folded, ready, graph = written(tmp_path, skip="concat")
    assert graph.quantized_operators()["Concat"] == int8_operators(ready)["Concat"] == modules(folded, Concat) > 0
    for concat in graph.of_type("Concat"):
        if any(graph.dequantizer(i) is not None for i in concat.input):
            assert len({float(graph.scale(graph.dequantizer(i))) for i in concat.input}) == 1


def test_squeeze_and_excite_stays_float_between_int8_neighbours(tmp_path):
    folded, _, graph = written(tmp_path, se_from=0, high_scales=0)
    inside = [n for n in graph.of_type("Conv") if n not in graph.quantized_convs()]
    assert len(inside) == 2 * modules(folded, SqueezeExcite) > 0
    assert all(graph.dequantizer(i) is None for n in inside for i in n.input[:2])
    products = graph.of_type("Mul")
    gated = [m for m in products if any(c.op_type == "QuantizeLinear" for c in graph.consumers[m.output[0]])]
    assert len(gated) == modules(folded, SqueezeExcite)
    assert all(graph.dequantizer(m.input[0]) is not None for m in gated)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_interpolation_reads_and_writes_one_scale(tmp_path, mode):
    folded, ready, graph = written(tmp_path, upsample=mode)
    resizes = graph.of_type("Resize")
    assert graph.quantized_operators()["Resize"] == int8_operators(ready)["Resize"] == len(resizes) == modules(folded, nn.Upsample) > 0
    for resize in resizes:
        behind = graph.consumers[resize.output[0]]
        assert {float(graph.scale(n)) for n in behind} == {float(graph.scale(graph.dequantizer(resize.input[0])))}


def test_deconvolutions_have_a_scale_per_output_channel(tmp_path):
    folded, _, graph = written(tmp_path, upsample="deconv")
    wanted = [m for m in folded.modules() if isinstance(m, nn.ConvTranspose2d)]
    found = [n for n in graph.quantized_convs() if n.op_type == "ConvTranspose"]
    assert graph.quantized_operators()["ConvTranspose"] == len(found) == len(wanted) > 0
    for conv, module in zip(found, wanted, strict=True):
        assert graph.scale(graph.dequantizer(conv.input[1])).shape == (module.out_channels,)


@pytest.mark.parametrize("skip", ["add", "concat"])
def test_with_any_one_tensor_in_float_the_others_operators_are_still_counted(tmp_path, skip):
    _, ready, graph = written(tmp_path, skip=skip)
    marked, parameters, whole = export_marked(ready, 17), collect(ready), int8_operators(ready)
    fewer = 0
    for name in [n for n, a in parameters.activations.items() if a.shares == n]:
        onnx.save(flavoured(marked, parameters.without(name), "s8"), tmp_path / "without.onnx")
        set_float(ready, [name])
        want, found = int8_operators(ready), QdqGraph(tmp_path / "without.onnx").quantized_operators()
        assert {op: found[op] for op in whole} == {op: want[op] for op in whole}, name
        fewer += want != whole
    assert fewer >= 3


@pytest.mark.parametrize(("op", "name"), [("Add", "encoder.0.0.add"), ("Resize", "decoder.0.up.resize"), ("Concat", "decoder.0.join")])
def test_an_operator_that_is_not_int8_is_missed_in_the_count(tmp_path, op, name):
    _, ready, graph = written(tmp_path, skip="concat" if op == "Concat" else "add")
    bypass(graph.model, name)
    for reader in [n for n in graph.model.graph.node if n.op_type == "QuantizeLinear" and n.name == f"{name}.quantize"]:
        graph.model.graph.node.remove(reader)
    onnx.save(graph.model, tmp_path / "model.onnx")
    want = int8_operators(ready)
    with pytest.raises(StageFailed, match="TensorRT would not run it as int8"):
        lint(tmp_path / "model.onnx", 17, len(graph.quantized_convs()), partial=True, operators=want)
    found = list(_count_faults(QdqGraph(tmp_path / "model.onnx"), want, True))
    assert any(re.fullmatch(rf"\d+ int8 {op} where {want[op]} are expected", fault) for fault in found)


def test_rounding_between_a_convolution_and_its_activation(model, folder, tmp_path):
    relu = next(n for n in model.graph.node if n.op_type == "Relu")
    scale, zero = node(model, "stem.act.quantize").input[1:]
    at = list(model.graph.node).index(relu)
    model.graph.node.insert(at, helper.make_node("DequantizeLinear", ["early", scale, zero], ["early.float"], "early.dequantize"))
    model.graph.node.insert(at, helper.make_node("QuantizeLinear", [relu.input[0], scale, zero], ["early"], "early.quantize"))
    relu.input[0] = "early.float"
    check(model, folder, tmp_path, "early.quantize rounds between .* and its activation")


def test_batch_normalisation_that_is_not_folded(model, folder, tmp_path):
    relu = next(n for n in model.graph.node if n.op_type == "Relu")
    for name in ("gamma", "beta", "mean", "var"):
        model.graph.initializer.append(numpy_helper.from_array(np.ones(8, np.float32), name))
    at = list(model.graph.node).index(relu)
    bn = helper.make_node("BatchNormalization", [relu.input[0], "gamma", "beta", "mean", "var"], ["normalised"], "bn")
    model.graph.node.insert(at, bn)
    relu.input[0] = "normalised"
    check(model, folder, tmp_path, "the batch normalisation behind .* is not folded")


def test_a_newer_opset(model, folder, tmp_path):
    check(model, folder, tmp_path, "opset 17 is above 16", opset=16)


def test_a_missing_quantized_convolution(model, folder, tmp_path):
    bypass(model, "stem.act")
    check(model, folder, tmp_path, "quantized convolutions where .*has a quantized weight but a float input")


def test_a_zero_point_that_is_not_zero(model, folder, tmp_path):
    model.graph.initializer.append(numpy_helper.from_array(np.array(3, np.int8), "three"))
    node(model, "stem.act.quantize").input[2] = "three"
    check(model, folder, tmp_path, "stem.act.quantize has zero point 3")


def test_no_zero_point(model, folder, tmp_path):
    del node(model, "stem.act.quantize").input[2]
    check(model, folder, tmp_path, "stem.act.quantize has no constant zero point, so it is unsigned")


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_a_scale_that_is_no_scale(model, folder, tmp_path, scale):
    replace(model, "stem.act.scale", np.array(scale, np.float32))
    check(model, folder, tmp_path, "stem.act.quantize has a scale that is not positive")


def test_a_computed_scale(model, folder, tmp_path):
    model.graph.node.insert(0, helper.make_node("Abs", ["stem.act.scale"], ["computed"], "abs"))
    node(model, "stem.act.quantize").input[1] = "computed"
    check(model, folder, tmp_path, "stem.act.quantize computes its scale")


def test_weights_outside_of_the_symmetric_range(model, folder, tmp_path):
    weight = numpy_helper.to_array(initializer(model, "stem.conv.weight.integers")).copy()
    weight.flat[0] = -128
    replace(model, "stem.conv.weight.integers", weight)
    check(model, folder, tmp_path, "uses -128, below -127")


def test_weights_quantized_per_tensor(model, folder, tmp_path):
    replace(model, "stem.conv.weight.scale", np.array(0.1, np.float32))
    replace(model, "stem.conv.weight.zero_point", np.array(0, np.int8))
    check(model, folder, tmp_path, r"is not quantized per output channel \(axis 0\)")


def test_weights_quantized_at_run_time(model, folder, tmp_path):
    dequantize = node(model, "stem.conv.weight.dequantize")
    integers, scale, zero = dequantize.input
    weight = numpy_helper.to_array(initializer(model, integers)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "weight"))
    model.graph.node.insert(0, helper.make_node("QuantizeLinear", ["weight", scale, zero], ["late"], "late", axis=0))
    dequantize.input[0] = "late"
    check(model, folder, tmp_path, "late quantizes a constant at run time; the weight of .* is not stored as int8")


def test_a_bias_that_is_not_a_float_constant(model, folder, tmp_path):
    conv = QdqGraph(folder.qdq("s8")).quantized_convs()[0].name
    bias = node(model, conv).input[2]
    model.graph.node.insert(0, helper.make_node("Abs", [bias], ["moved"], "abs"))
    node(model, conv).input[2] = "moved"
    check(model, folder, tmp_path, f"the bias of {conv} is not a float constant")


def test_a_sum_of_a_quantized_and_a_float_tensor(model, folder, tmp_path):
    bypass(model, "encoder.0.0.project.conv")
    check(model, folder, tmp_path, "adds a quantized and a float tensor")
    path = tmp_path / "model.onnx"
    lint(path, 17, folder.facts.quantized_convs, partial=True)  # where tensors are float on purpose


def test_two_scales_around_what_moves_values(model, folder, tmp_path):
    for part in ("quantize", "dequantize"):
        node(model, f"decoder.0.up.resize.{part}").input[1] = "stem.act.scale"
    check(model, folder, tmp_path, "has not one scale before and behind it")


def test_integers_that_go_elsewhere(model, folder, tmp_path):
    quantize = node(model, "stem.act.quantize")
    model.graph.node.append(helper.make_node("Cast", [quantize.output[0]], ["cast"], "cast", to=onnx.TensorProto.FLOAT))
    check(model, folder, tmp_path, "the integers of stem.act.quantize do not go to a DequantizeLinear")


def test_an_activation_quantized_per_channel(model, folder, tmp_path):
    replace(model, "stem.act.scale", np.full(8, 0.1, np.float32))
    check(model, folder, tmp_path, "is not quantized per tensor")


def test_float_files_of_students_have_no_quantized_convolution(tmp_path):
    export_onnx(student(), tmp_path / "float.onnx")
    assert QdqGraph(tmp_path / "float.onnx").quantized_convs() == []
