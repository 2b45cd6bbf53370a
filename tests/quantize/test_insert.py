import pytest
import torch
from torch import nn

from models.arch import build
from models.fold import fold_batchnorm
from models.student.blocks import Add, Concat
from pipeline.errors import StageFailed
from pipeline.target import load_target
from quantize.insert import convolutions, prepare, quantizers, set_float, takes_unsigned
from quantize.scheme import ACTIVATIONS, UNSIGNED
from tests.quantize.toys import SMALL, quantized, student


def prepared(**config):
    return prepare(fold_batchnorm(student(**config)))


def leaders(network):
    return {name: q.leader.name for name, q in quantizers(network).items() if q.leader is not q}


def test_one_quantizer_per_tensor_between_int8_operators():
    names = list(quantizers(prepared(**SMALL)))
    assert names[:5] == ["unshuffle", "stem.act", "encoder.0.0.expand.act", "encoder.0.0.project.conv", "encoder.0.0.add"]
    assert names[-1] == "head"
    assert "stem.conv" not in names  # fused with its activation
    assert "residual" not in names  # the sum with the input stays float
    assert "shuffle" not in names


def test_every_convolution_runs_in_int8_except_in_squeeze_and_excite():
    network = prepared(**{**SMALL, "se_from": 0, "high_scales": 0})
    outside = {n for n, m in network.named_modules() if isinstance(m, nn.Conv2d) and ".se." not in n}
    assert set(convolutions(network)) == outside
    assert "encoder.0.0.se.mul" in quantizers(network)
    assert not any(".se." in n and not n.endswith(".mul") for n in quantizers(network))


def test_interpolation_keeps_the_scale_of_its_input():
    assert leaders(prepared(**SMALL))["decoder.0.up.resize"] == "decoder.0.up.conv.conv"


def test_what_is_concatenated_shares_one_scale():
    follow = leaders(prepared(**{**SMALL, "skip": "concat"}))
    group = {follow.get(n, n) for n in ("encoder.1.0.project.conv", "decoder.0.up.conv.conv", "decoder.0.up.resize", "decoder.0.join")}
    assert group == {"encoder.1.0.project.conv"}


def test_signs_are_known_without_data():
    network = quantizers(prepared(**{**SMALL, "se_from": 0, "high_scales": 0}))
    assert {n for n, q in network.items() if n.endswith((".act", ".se.mul")) and not q.non_negative} == set()
    assert network["unshuffle"].non_negative
    assert not network["encoder.0.0.project.conv"].non_negative
    assert not quantizers(prepared(**{**SMALL, "activation": "hardswish"}))["stem.act"].non_negative


def test_without_unshuffle_the_input_is_quantized_for_the_first_convolution_alone():
    network = prepared(**{**SMALL, "unshuffle": 1})
    assert "lq" in quantizers(network)
    assert network.stem.conv.input_quantizer is quantizers(network)["lq"]
    set_float(network, [n for n in quantizers(network) if n != "lq"])
    network.head.weight.data.zero_()
    network.head.bias.data.zero_()
    x = torch.rand(1, 3, 32, 32)
    assert torch.equal(network(x), x)  # the sum at the end adds the image as it came


def test_a_tensor_in_float_takes_its_group_and_the_convolutions_that_read_it_along():
    _, network = quantized(student(**{**SMALL, "skip": "concat"}))
    set_float(network, ["decoder.0.join"])
    off = {n for n, q in quantizers(network).items() if not q.enabled}
    assert off == {"encoder.1.0.project.conv", "decoder.0.up.conv.conv", "decoder.0.up.resize", "decoder.0.join"}
    assert {n for n, c in convolutions(network).items() if not c.quantized} == {"decoder.0.merge.conv", "encoder.2.0.expand.conv"}


def test_unsigned_are_the_groups_that_cannot_be_negative():
    folded = fold_batchnorm(student(**{**SMALL, "skip": "concat"}))
    network = quantizers(prepare(folded, unsigned=True))
    for quantizer in network.values():
        group = [q for q in network.values() if q.leader is quantizer.leader]
        assert quantizer.unsigned == all(q.non_negative for q in group)
        assert quantizer.range == (UNSIGNED if quantizer.unsigned else ACTIVATIONS)
    assert network["unshuffle"].unsigned and not network["decoder.0.join"].unsigned
    assert [name for name, q in network.items() if q.is_picture] == ["unshuffle"]
    assert not any(q.unsigned for q in quantizers(prepare(folded)).values())


@pytest.mark.parametrize(
    ("target", "asked", "unsigned"),
    [("jetson-xavier", "auto", False), ("raspberry-pi-5", "auto", True), ("jetson-xavier", True, True), ("host", False, False)],
)
def test_a_gpu_that_runs_int8_takes_no_unsigned_tensors(target, asked, unsigned):
    assert takes_unsigned(load_target(target), asked) is unsigned


@pytest.mark.parametrize(
    ("machine", "flags", "unsigned"), [("x86_64", {"avx2"}, False), ("x86_64", {"avx_vnni"}, True), ("aarch64", set(), True)]
)
def test_nor_does_an_x86_without_vnni(monkeypatch, machine, flags, unsigned):
    monkeypatch.setattr("quantize.insert.cpu_flags", lambda: frozenset(flags))
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert takes_unsigned(load_target("host"), "auto") is unsigned
    assert takes_unsigned(load_target("raspberry-pi-5"), "auto") is True


class Outside(nn.Module):
    size_multiple = 1

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 3, 1)

    def forward(self, lq):
        return self.last(self.second(self.first(lq)) * 2)


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.act, self.last = nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1)

    def forward(self, lq):
        return self.last(self.act(self.conv(self.act(self.conv(lq)))))


class OtherOps(nn.Module):
    """In-place activation, pooling of values, a sum of non-negative tensors, a list concatenated, a convolution of another class."""

    def __init__(self):
        super().__init__()
        self.conv, self.act, self.pool = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)
        self.up, self.add, self.concat = nn.Upsample(scale_factor=2), Add(), Concat()
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, lq):
        x = self.act(self.conv(lq))
        y = self.up(self.pool(x))
        return self.last(self.concat(self.add(x, y), y))


def test_operators_beyond_the_students():
    network = quantizers(prepare(OtherOps()))
    assert list(network) == ["lq", "act", "pool", "up", "add", "concat", "last"]
    assert {n: q.leader.name for n, q in network.items()}["concat"] == "act"
    assert all(q.non_negative for n, q in network.items() if n != "last")


def test_an_operation_outside_of_modules_is_refused_by_name():
    with pytest.raises(StageFailed, match="'last' reads a tensor that was computed outside of any module") as e:
        prepare(Outside())
    assert "make every operation of the network a module" in e.value.hint


def test_a_module_that_runs_twice_is_refused_by_name():
    with pytest.raises(StageFailed, match="'conv' is called more than once, so one scale would serve several tensors") as e:
        prepare(Shared())
    assert e.value.hint == "give each call a module of its own"


def test_a_network_without_convolutions_is_refused():
    with pytest.raises(StageFailed, match="Sequential: has no convolution that could run in int8"):
        prepare(nn.Sequential(nn.ReLU()))


def test_nafnet_is_refused_with_the_reason():
    nafnet = build("nafnet", {"width": 4, "enc_blk_nums": [1], "middle_blk_num": 1, "dec_blk_nums": [1]})
    with pytest.raises(StageFailed, match="computed outside of any module"):
        prepare(fold_batchnorm(nafnet))


class Doubled(nn.Module):
    """Its correction is doubled before it is added, and shares the scale of what it was doubled from."""

    size_multiple = 2

    def __init__(self):
        super().__init__()
        self.down, self.up, self.add = nn.Conv2d(3, 3, 2, stride=2), nn.Upsample(scale_factor=2, mode="bilinear"), Add()

    def forward(self, lq):
        return self.add(self.up(self.down(lq)), lq)


def test_only_what_nothing_else_reads_or_interpolates_gets_grey_levels():
    assert [n for n, q in quantizers(prepare(fold_batchnorm(student()))).items() if q.corrects_picture] == ["head"]
    assert not any(q.corrects_picture for q in quantizers(prepare(Doubled())).values())
