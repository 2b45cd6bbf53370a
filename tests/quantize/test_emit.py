"""What lies on disk: both flavours say the same numbers, and compute what the fake-quantized network computes."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from eval.quality import psnr, to_batch, to_image
from pipeline.errors import StageFailed
from quantize.emit import emit
from quantize.folder import write_folder
from quantize.insert import set_float
from quantize.lint import QdqGraph
from quantize.scales import collect
from tests.quantize.toys import PATTERNS, SMALL, db, pairs, photos, quantized, student

FLAVOURS = ("s8", "u8")


CASES = {**{name: (config, False) for name, config in PATTERNS.items()}, "unsigned": (SMALL, True)}


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES.keys())
def written(request, tmp_path_factory):
    config, unsigned = request.param
    folded, ready = quantized(student(**config), unsigned=unsigned)
    folder = write_folder(tmp_path_factory.mktemp("model") / "model", folded, "student", 17, ready)
    return folder, folded, ready


def run(path, x, optimized=None):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if optimized:
        options.optimized_model_filepath = str(optimized)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"lq": x})[0]


def integers(graph, node):
    return graph.constants[graph.dequantizer(node.input[1]).input[0]]


def test_the_file_passes_the_lint_and_counts_its_convolutions(written):
    folder, folded, _ = written  # write_folder has run the lint
    outside = [n for n, m in folded.named_modules() if isinstance(m, torch.nn.Conv2d | torch.nn.ConvTranspose2d) and ".se." not in n]
    for flavour in FLAVOURS:
        assert len(QdqGraph(folder.qdq(flavour)).quantized_convs()) == len(outside) == folder.facts.quantized_convs


def test_scales_in_both_files_are_those_of_quantization_json_exactly(written):
    folder = written[0]
    scales = folder.scales()
    for flavour in FLAVOURS:
        graph = QdqGraph(folder.qdq(flavour))
        by_name = {n.name: n for n in graph.of_type("QuantizeLinear", "DequantizeLinear")}
        for name, row in scales["activations"].items():
            for node in (by_name[f"{name}.quantize"], by_name[f"{name}.dequantize"]):
                assert graph.scale(node) == np.float32(row["scale"])
        for name, row in scales["weights"].items():
            node = by_name[f"{name}.dequantize"]
            assert np.array_equal(graph.scale(node), np.asarray(row["scale"], np.float32))
        quantize = {n.removesuffix(".quantize") for n in by_name if n.endswith(".quantize")}
        assert quantize == set(scales["activations"])


def test_integer_weights_are_the_same_in_both_files_and_in_the_network(written):
    folder, _, ready = written
    want = {name: w.integers for name, w in collect(ready).weights.items()}
    for flavour in FLAVOURS:
        graph = QdqGraph(folder.qdq(flavour))
        found = {graph.dequantizer(n.input[1]).name.removesuffix(".dequantize"): integers(graph, n) for n in graph.quantized_convs()}
        assert found.keys() == want.keys()
        assert all(found[n].dtype == np.int8 and np.array_equal(found[n], want[n]) for n in want)


def test_zero_points_are_0_in_s8_and_0_or_128_in_u8_unless_unsigned(written):
    folder = written[0]
    rows = folder.scales()["activations"]
    assert folder.facts.unsigned == any(row["unsigned"] for row in rows.values())
    zeros = {name: (-128 if row["unsigned"] else 0, 0 if row["non_negative"] else 128) for name, row in rows.items()}
    for number, (flavour, dtype) in enumerate((("s8", np.int8), ("u8", np.uint8))):
        graph = QdqGraph(folder.qdq(flavour))
        for node in graph.of_type("QuantizeLinear"):
            name = node.name.removesuffix(".before_clip").removesuffix(".quantize")
            zero = graph.zero_point(node)
            assert zero.dtype == dtype
            assert zero == zeros[name][number]


def test_both_files_compute_what_the_fake_quantized_network_computes(written):
    folder, _, ready = written
    x = photos(1)[0]
    with torch.no_grad():
        want = ready(x).numpy()
    got = {flavour: run(folder.qdq(flavour), x.numpy()) for flavour in FLAVOURS}
    gt = pairs("calibrate")[0].gt
    for out in got.values():
        assert db(out, want) >= 45
        assert abs(psnr(to_image(out), gt) - psnr(to_image(want), gt)) <= 0.05
    assert db(got["s8"], got["u8"]) >= 45


def test_both_files_of_an_unsigned_network_hold_the_same_integers(tmp_path):
    folded, ready = quantized(student(**SMALL), unsigned=True)
    folder = write_folder(tmp_path / "model", folded, "student", 17, ready)
    x = photos(1)[0].numpy()
    assert np.array_equal(run(folder.qdq("s8"), x), run(folder.qdq("u8"), x)), "nothing is clipped in one and not in the other"
    rows = folder.scales()["activations"]
    assert rows["unshuffle"]["unsigned"] and not all(row["unsigned"] for row in rows.values())
    assert np.float32(rows["unshuffle"]["scale"]) == np.float32(1 / 255), "the image in its own 255 steps"


def test_int8_is_near_the_float_file_and_not_equal_to_it(written):
    folder, folded, _ = written
    x = photos(1)[0]
    real = run(folder.float, x.numpy())
    with torch.no_grad():
        assert db(real, folded(x)) >= 100
    assert 25 < db(run(folder.qdq("u8"), x.numpy()), real) < 100


def test_height_and_width_are_free_and_the_batch_is_one(written):
    folder = written[0]
    for path in (folder.float, *(folder.qdq(f) for f in FLAVOURS)):
        model = onnx.load(path)
        for value in (model.graph.input[0], model.graph.output[0]):
            shape = value.type.tensor_type.shape.dim
            assert [d.dim_value for d in shape] == [1, 3, 0, 0]
        assert run(path, np.zeros((1, 3, 32, 64), np.float32)).shape == (1, 3, 32, 64)


def test_the_opset_is_the_one_asked_for(written):
    assert [QdqGraph(written[0].qdq(f)).opset for f in FLAVOURS] == [17, 17]


def test_onnx_runtime_runs_nearly_all_of_them_in_integers(written, tmp_path):
    folder, folded, _ = written
    if any(isinstance(m, torch.nn.Hardswish) for m in folded.modules()):
        pytest.skip("ONNX Runtime has no integer hard-swish, and does not fuse it")
    run(folder.qdq("u8"), np.zeros((1, 3, 32, 32), np.float32), tmp_path / "optimized.onnx")
    ops = Counter(n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node)
    kinds = Counter(type(m).__name__ for m in folded.modules())
    assert ops["QLinearConv"] == folder.facts.quantized_convs - kinds["ConvTranspose2d"]  # which it has in float alone
    assert ops["QLinearAdd"] == kinds["Add"] - 1
    assert ops["QLinearConcat"] == kinds["Concat"]


def test_a_relu6_whose_bound_matters_keeps_its_convolution_in_integers(tmp_path):
    network = student(**PATTERNS["relu6"])
    with torch.no_grad():
        network.stem.conv.weight.mul_(40)
    network.stem.bn = torch.nn.BatchNorm2d(8).eval()
    folded, ready = quantized(network)
    folder = write_folder(tmp_path / "model", folded, "student", 17, ready)
    graph = QdqGraph(folder.qdq("u8"))
    assert "stem.act.quantize.before_clip" in {n.name for n in graph.of_type("QuantizeLinear")}
    x = photos(1)[0]
    out = run(folder.qdq("u8"), x.numpy(), tmp_path / "optimized.onnx")
    ops = Counter(n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert ops["QLinearConv"] == folder.facts.quantized_convs
    assert db(out, run(folder.qdq("s8"), x.numpy())) >= 45


def test_biases_are_integers_of_scale_input_times_weight_in_u8_alone(written):
    folder = written[0]
    u8, s8 = QdqGraph(folder.qdq("u8")), QdqGraph(folder.qdq("s8"))
    floats = {n.name: s8.constants[n.input[2]] for n in s8.quantized_convs()}
    for node in u8.quantized_convs():
        if node.op_type == "Conv":
            x, w, bias = (u8.dequantizer(name) for name in node.input)
            stored = u8.constants[bias.input[0]]
            assert stored.dtype == np.int32
            assert np.array_equal(u8.scale(bias), u8.scale(x) * u8.scale(w))
            assert np.allclose(stored * u8.scale(bias), floats[node.name], atol=u8.scale(bias).max() / 2)


def test_some_tensors_in_float(tmp_path):
    folded, ready = quantized(student(**SMALL))
    whole = len(collect(ready).weights)
    set_float(ready, ["encoder.1.0.expand.act"])
    folder = write_folder(tmp_path / "model", folded, "student", 17, ready)
    assert folder.facts.float_tensors == ("encoder.1.0.expand.act",)
    assert folder.facts.quantized_convs == whole - 1
    x = photos(1)[0]
    with torch.no_grad():
        want = ready(x).numpy()
    assert all(db(run(folder.qdq(f), x.numpy()), want) >= 45 for f in FLAVOURS)


def test_an_opset_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    _, ready = quantized(student())
    monkeypatch.setattr("quantize.emit.opset_of", lambda model: 18)  # stands for an exporter that raises it silently
    with pytest.raises(StageFailed, match=r"qdq_s8.onnx: the written file has opset 18\nhint: opset 17 was asked for"):
        emit(ready, collect(ready), tmp_path, 17)


def test_writing_twice_gives_the_same_bytes(tmp_path):
    for run_ in ("a", "b"):
        folded, ready = quantized(student())
        write_folder(tmp_path / run_, folded, "student", 17, ready)
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_the_float_folder_has_no_int8(tmp_path):
    folded, _ = quantized(student())
    folder = write_folder(tmp_path / "model", folded, "student", 17)
    assert not folder.has_int8
    assert sorted(p.name for p in folder.path.iterdir()) == ["checkpoint.safetensors", "float.onnx", "model.json"]
    assert to_batch(pairs("calibrate")[0].lq).shape == run(folder.float, to_batch(pairs("calibrate")[0].lq)).shape
