"""One set of scales: by tensor for LiteRT and TVM, the same in both flavours of the file."""

import json

import numpy as np
import pytest

from quantize.folder import write_folder
from quantize.insert import set_float
from quantize.lint import QdqGraph
from quantize.scales import collect
from tests.quantize.toys import SMALL, quantized, student


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folded, ready = quantized(student(**{**SMALL, "skip": "concat", "upsample": "deconv"}))
    return write_folder(tmp_path_factory.mktemp("model") / "model", folded, "student", 17, ready)


@pytest.mark.parametrize("flavour", ["s8", "u8"])
def test_every_tensor_has_the_scale_type_and_zero_point_of_the_file(folder, flavour):
    rows, graph = folder.scales()["tensors"], QdqGraph(folder.qdq(flavour))
    found = {n.name.removesuffix(".dequantize"): n for n in graph.of_type("DequantizeLinear")}
    assert set(found) <= set(rows)
    for name, node in found.items():
        row = rows[name]
        assert np.array_equal(graph.scale(node).reshape(-1), np.asarray(row["scale"], np.float32)), name
        zero = graph.zero_point(node)
        assert str(zero.dtype) == row[flavour]["dtype"]
        assert set(zero.reshape(-1).tolist()) == {row[flavour]["zero_point"]}
        if row["axis"] is not None:
            assert {a.name: a.i for a in node.attribute}["axis"] == row["axis"]
    kinds = {rows[name]["kind"] for name in found}
    assert kinds == ({"activation", "weight", "bias"} if flavour == "u8" else {"activation", "weight"})


def test_every_convolution_names_what_it_reads_and_makes(folder):
    content, graph = folder.scales(), QdqGraph(folder.qdq("s8"))
    assert len(content["convolutions"]) == len(graph.quantized_convs()) == folder.facts.quantized_convs
    by_weight = {c["weight"]: c for c in content["convolutions"].values()}
    for node in graph.quantized_convs():
        x, w = (graph.dequantizer(i).name.removesuffix(".dequantize") for i in node.input[:2])
        row = by_weight[w]
        assert content["activations"][x]["scale"] == content["activations"][row["input"]]["scale"]
        assert row["output"] in content["activations"]
    assert content["convolutions"]["stem.conv"] == {"input": "unshuffle", "weight": "stem.conv.weight", "output": "stem.act"}


def test_the_bias_scale_is_input_times_weight(folder):
    content = folder.scales()
    row = content["convolutions"]["stem.conv"]
    want = np.float32(content["activations"][row["input"]]["scale"]) * np.asarray(content["weights"][row["weight"]]["scale"], np.float32)
    assert np.array_equal(np.asarray(content["tensors"]["stem.conv.bias"]["scale"], np.float32), want)


def test_it_survives_json():
    parameters = collect(quantized(student())[1])
    assert json.loads(json.dumps(parameters.to_json())) == parameters.to_json()


def test_without_a_tensor_its_group_and_the_weights_behind_it_are_float():
    _, ready = quantized(student(**{**SMALL, "skip": "concat"}))
    edited = collect(ready).without("encoder.1.0.project.conv")
    set_float(ready, ["decoder.0.join"])
    want = collect(ready)
    assert edited.activations.keys() == want.activations.keys()
    assert edited.weights.keys() == want.weights.keys()
    assert set(edited.float_tensors) == set(want.float_tensors)
    assert {n: c.output for n, c in want.convolutions.items()}["decoder.0.up.conv.conv"] == ""
