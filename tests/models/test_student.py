import itertools
from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import checkpoint
from models.arch import build, load_arch
from models.export import export_onnx
from models.fold import fold_batchnorm
from models.student.blocks import Block, SqueezeExcite, Unshuffle
from models.student.config import StudentConfig, round_to_8
from pipeline.errors import UsageError
from tests.models.helpers import image, prune_half, small

VARIANTS = [
    {"upsample": upsample, "skip": skip, "unshuffle": unshuffle, "activation": activation, "high_scales": high}
    for (upsample, skip), (unshuffle, activation, high) in zip(
        itertools.product(("bilinear", "nearest", "deconv"), ("add", "concat")),
        itertools.cycle([(1, "hardswish", 0), (2, "relu", 2), (4, "relu6", 3)]),
        strict=False,
    )
]
WIDE = {"widths": [32, 48, 64], "depths": [2, 2, 2]}


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
def test_pruned_student_reloads_bit_for_bit_from_the_file_alone(variant, tmp_path):
    network = small("student", **WIDE, **variant)
    before = sum(p.numel() for p in network.parameters())
    prune_half(network, [network.head])
    network.eval()
    assert sum(p.numel() for p in network.parameters()) < 0.5 * before
    checkpoint.save(tmp_path / "pruned.safetensors", network, "student")
    loaded = checkpoint.load(tmp_path / "pruned.safetensors").module
    lq = image(64, 96)
    with torch.no_grad():
        out = network(lq)
        assert out.shape == lq.shape
        assert torch.equal(loaded(lq), out)
    config = load_arch("student").config_of(network)
    assert load_arch("student").config_of(loaded) == config
    assert config["network"]["encoder"][1][0]["width"] == network.encoder[1][0].project.conv.out_channels


def test_four_scales_and_an_empty_finest_one():
    network = small("student", widths=[8, 16, 16, 24], depths=[0, 1, 1, 1], decoder_depths=[0, 1, 0], se_from=1)
    assert network.size_multiple == 16
    with torch.no_grad():
        out, features = network.features(image(32, 48))
    assert [f.shape[1] for f in features] == [8, 16, 16, 24]
    assert out.shape == (1, 3, 32, 48)


def test_compact_form_says_what_is_built():
    exact = StudentConfig(widths=(16, 24, 40), depths=(1, 2, 3), expand=(1, 2, 3), kernels=(3, 3, 5), se_from=2).exact()
    assert [len(scale) for scale in exact.encoder] == [1, 2, 3]
    assert [b.kind for scale in exact.encoder for b in scale] == ["fused"] * 3 + ["inverted_residual"] * 3
    assert [b.kernel for scale in exact.encoder for b in scale] == [3, 3, 3, 5, 5, 5]
    assert [b.hidden for scale in exact.encoder for b in scale] == [16, 32, 48, 72, 120, 120]
    assert [b.se for scale in exact.encoder for b in scale] == [0, 0, 0, 16, 32, 32]
    assert [b.residual for scale in exact.encoder for b in scale] == [True, False, True, False, True, True]
    assert [d.width for d in exact.decoder] == [24, 16]


def test_starts_near_the_identity():
    torch.manual_seed(0)
    lq = image(64, 64)
    with torch.no_grad():
        difference = (build("student", {}).eval()(lq) - lq).abs().max()
    assert 0 < difference < 0.05


def test_every_block_can_differ():
    exact = StudentConfig(widths=(8, 16, 16), depths=(1, 1, 2)).exact().model_dump(mode="json")
    exact["encoder"][2][1] |= {"kind": "fused", "kernel": 5, "hidden": 24, "activation": "hardswish", "se": 16, "residual": False}
    assert load_arch("student").config_of(build("student", {"network": exact})) == {"network": exact}


def test_unshuffle_is_pytorchs_in_another_channel_order():
    x = torch.arange(2 * 3 * 4 * 8.0).reshape(2, 3, 4, 8)
    ours, theirs = Unshuffle(2)(x), F.pixel_unshuffle(x, 2)
    assert torch.equal(ours.reshape(2, 4, 3, 2, 4).transpose(1, 2).reshape(2, 12, 2, 4), theirs)


def test_squeeze_excite_is_mobilenets():
    se, x = SqueezeExcite(8, 4), torch.randn(2, 8, 5, 6)
    pooled = x.mean((2, 3), keepdim=True)
    gate = F.hardsigmoid(se.restore(F.relu(se.reduce(pooled))))
    torch.testing.assert_close(se(x), x * gate)


def test_what_a_quantizer_must_find_is_a_module():
    """The ONNX graph has as many operators of a kind as there are modules of it: nothing is computed between them."""
    network = fold_batchnorm(small("student", skip="concat"))
    kinds = Counter(type(m).__name__ for m in network.modules())
    gates = kinds["HardSigmoid"]
    assert kinds["Add"] == 1 + sum(m.add is not None for m in network.modules() if isinstance(m, Block))
    assert kinds["Mul"] == gates == kinds["SqueezeExcite"]
    assert kinds["BatchNorm2d"] == 0


def test_exported_operators(tmp_path):
    import onnx

    network = small("student", skip="concat")
    export_onnx(network, tmp_path / "s.onnx")
    graph = onnx.load(str(tmp_path / "s.onnx")).graph
    found = Counter(node.op_type for node in graph.node)
    modules = Counter(type(m).__name__ for m in network.modules())
    gates = modules["SqueezeExcite"]
    assert found == {
        "SpaceToDepth": 1,
        "DepthToSpace": 1,
        "Conv": modules["Conv2d"],
        "Relu": modules["ReLU"],
        "Add": modules["Add"] + gates,
        "Mul": 2 * gates,
        "Clip": gates,
        "GlobalAveragePool": gates,
        "Concat": modules["Concat"],
        "Resize": modules["Upsample"],
    }
    constants = {i.name for i in graph.initializer}
    assert all(node.input[2] in constants for node in graph.node if node.op_type == "Resize")


def test_convolutions_have_batch_norm_and_no_bias_until_folded():
    network = small("student")
    assert all((m.conv.bias is None) and isinstance(m.bn, nn.BatchNorm2d) for m in network.modules() if type(m).__name__ == "ConvBnAct")
    folded = fold_batchnorm(network)
    assert all((m.conv.bias is not None) and isinstance(m.bn, nn.Identity) for m in folded.modules() if type(m).__name__ == "ConvBnAct")
    assert load_arch("student").config_of(folded)["network"]["batchnorm"] is False
    assert load_arch("student").config_of(network)["network"]["batchnorm"] is True


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"widths": [8, 16]}, "2 widths need 2 depths, not 3"),
        ({"depths": [1, 0, 1]}, "raise its depth to 1"),
        ({"kernels": [3, 3]}, "3 widths need 3 kernels, not 2"),
        ({"activaton": "relu"}, "did you mean 'activation'"),
        ({"activation": "gelu"}, "config of student: activation"),
        ({"kernels": 4}, "config of student: kernels"),
        ({"widths": [8, 0, 8]}, "config of student: widths.1"),
        ({"network": {}, "skip": "add"}, "config of student: network.unshuffle"),
    ],
)
def test_wrong_configurations(config, message):
    with pytest.raises(UsageError) as e:
        build("student", config)
    assert message in str(e.value)
    assert len(str(e.value).splitlines()) == 2


def test_the_exact_form_excludes_the_compact_one():
    exact = StudentConfig().exact().model_dump()
    with pytest.raises(UsageError, match="'network' is the exact network: remove the other keys"):
        build("student", {"network": exact, "skip": "add"})


def test_round_to_8():
    assert [round_to_8(c) for c in (1, 8, 11.9, 12, 20, 36)] == [8, 8, 8, 16, 24, 40]
