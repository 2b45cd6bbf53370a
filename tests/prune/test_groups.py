import pytest
import torch
from torch import nn

from models import checkpoint
from models.arch import build, load_arch
from pipeline.errors import UsageError
from prune.groups import Graph, cut, output_convolution
from prune.importance import l1, random, taylor
from prune.shrink import uniform, widths
from tests.quantize.toys import PATTERNS, student
from train.config import RecoverConfig
from train.recover import TeacherLoss

WIDE = {"widths": [16, 32, 48], "depths": [1, 2, 2], "decoder_depths": [1, 1]}


def pruned(network, ratio=0.5, multiple=8):
    return cut(network, uniform(Graph(network).groups, ratio, multiple), l1(network))[0]


@pytest.mark.parametrize(
    "pattern", [{k: v for k, v in p.items() if k not in ("widths", "depths")} for p in PATTERNS.values()], ids=PATTERNS
)
def test_every_pattern_shrinks_and_reloads_bit_for_bit_from_its_file_alone(pattern, tmp_path):
    network = student(**{**WIDE, **pattern})
    small = pruned(network)
    before, after = widths(network), widths(small)
    assert sum(after.values()) < 0.75 * sum(before.values())
    assert after["head"] == before["head"]
    assert all(w % 8 == 0 for n, w in after.items() if n != "head" and w != before[n])
    checkpoint.save(tmp_path / "small.safetensors", small, "student")
    loaded = checkpoint.load(tmp_path / "small.safetensors")
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded.module(x), small.eval()(x))
    assert loaded.config == load_arch("student").config_of(small)


@pytest.mark.parametrize("skip", ["add", "concat"])
def test_what_a_layer_kept_are_its_own_weights(skip):
    network = student(**WIDE, skip=skip)
    small, kept = cut(network, {"stem.conv": 8, "encoder.2.0.expand.conv": 24}, random(network, 1))
    before = network.state_dict()
    for name, tensor in small.state_dict().items():
        layer, _, kind = name.rpartition(".")
        if kind == "running_var" or kind == "bias":
            assert torch.equal(tensor, before[name][kept[layer]]), name
    stem = network.stem.conv.weight[kept["stem.conv"]]
    assert torch.equal(small.stem.conv.weight, stem)
    assert len(kept["stem.conv"]) == 8


def test_groups_hold_the_layers_that_share_channels():
    groups = {g.name: g for g in Graph(student(**WIDE)).groups}
    assert groups["stem.conv"].layers == (
        "stem.conv",
        "encoder.0.0.project.conv",
        "decoder.1.up.conv.conv",
        "decoder.1.blocks.0.project.conv",
    )
    assert groups["stem.conv"].width == 16
    assert "head" not in {layer for g in groups.values() for layer in g.layers}
    assert list(groups) == sorted(groups, key=list(widths(student(**WIDE))).index)


def test_the_input_is_left_alone():
    network = student(**WIDE)
    before = {n: t.clone() for n, t in network.state_dict().items()}
    pruned(network)
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())


def test_channels_with_the_smallest_l1_norm_go():
    network = student(**WIDE)
    block = network.encoder[0][0]
    with torch.no_grad():
        for part in (block.expand.conv.weight, block.expand.bn.weight, block.expand.bn.bias, block.project.conv.weight.transpose(0, 1)):
            part[::2] *= 1e-6
    small = pruned(network).encoder[0][0].expand.conv
    assert small.out_channels == block.expand.conv.out_channels // 2
    assert small.weight.flatten(1).abs().sum(1).min() > 1e-2


def batch(seed=3):
    generator = torch.Generator().manual_seed(seed)
    gt = torch.rand(2, 3, 32, 32, generator=generator)
    return gt * 0.9, gt


def test_taylor_predicts_the_change_of_the_loss_when_a_channel_fades():
    network, loss, (lq, gt) = student(**WIDE), TeacherLoss(RecoverConfig(), None), batch()
    scores = taylor(network, [(lq, gt)], loss)["encoder.0.0.expand.conv"]
    project, found, step = network.encoder[0][0].project.conv, [], 1e-2
    with torch.no_grad():
        whole = loss(network.double(), lq.double(), gt.double())[0]
        for channel in range(len(scores)):
            project.weight[:, channel] *= 1 - step
            found.append((loss(network, lq.double(), gt.double())[0] - whole) / step)
            project.weight[:, channel] /= 1 - step
    assert torch.allclose(torch.stack(found).square().float(), scores, rtol=0.1, atol=1e-3 * float(scores.max()))


def test_taylor_of_a_residual_stream_counts_every_reader_and_leaves_no_gradient():
    network = student(**WIDE)
    scores = taylor(network, [batch()], TeacherLoss(RecoverConfig(), None))
    assert scores.keys() == {g.name for g in Graph(network).groups}
    assert all((s >= 0).all() and s.max() > 0 for n, s in scores.items() if "se" not in n)
    assert all(p.grad is None for p in network.parameters())


def test_random_is_the_same_for_the_same_seed_and_another_for_another():
    network = student(**WIDE)
    one, same, other = random(network, 1), random(network, 1), random(network, 2)
    assert all(torch.equal(one[g], same[g]) and not torch.equal(one[g], other[g]) for g in one)


def test_a_pruned_network_still_trains():
    small = pruned(student(**{**WIDE, "se_from": 0})).train()
    small(torch.rand(2, 3, 32, 32)).mean().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in small.parameters())


def test_the_last_convolution_is_found_by_running_the_network():
    network = student()
    assert output_convolution(network, torch.zeros(1, 3, 32, 32)) is network.head


def test_a_network_without_convolutions_is_refused():
    with pytest.raises(UsageError, match="prune: ReLU has no convolution"):
        Graph(nn.ReLU())


class Fixed(nn.Module):
    size_multiple = 1

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 3, 1)

    def forward(self, lq):
        return self.last(self.first(lq).reshape(1, 16, *lq.shape[2:]))


def test_a_network_that_breaks_when_it_is_pruned_is_refused():
    with pytest.raises(UsageError, match=r"prune: Fixed cannot be pruned \(.*\)\nhint: prune a student, or leave the prune stage out"):
        pruned(Fixed())


def test_nafnet_shrinks_or_is_refused_but_never_breaks():
    nafnet = build("nafnet", {"width": 16, "enc_blk_nums": [1], "middle_blk_num": 1, "dec_blk_nums": [1]})
    try:
        small = pruned(nafnet)
    except UsageError:
        return
    assert small(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 32, 32)
