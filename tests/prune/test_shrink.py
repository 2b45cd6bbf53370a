import pytest
import torch
from torch import nn

from models import checkpoint
from models.arch import build, load_arch
from pipeline.errors import UsageError
from prune.shrink import Shrink, output_convolution, shrink, table, widths
from tests.quantize.toys import PATTERNS, student

WIDE = {"widths": [16, 32, 48], "depths": [1, 2, 2], "decoder_depths": [1, 1]}


def pruned(network, **options):
    what = {"ratio": 0.5, "max_ratio": 0.75, "multiple": 8, **options}
    return list(shrink(network, Shrink(**what)))[-1]


@pytest.mark.parametrize(
    "pattern", [{k: v for k, v in p.items() if k not in ("widths", "depths")} for p in PATTERNS.values()], ids=PATTERNS
)
@pytest.mark.parametrize("global_ranking", [False, True])
def test_every_pattern_shrinks_and_reloads_bit_for_bit_from_its_file_alone(pattern, global_ranking, tmp_path):
    network = student(**{**WIDE, **pattern})
    small = pruned(network, global_ranking=global_ranking)
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


@pytest.mark.parametrize(("multiple", "ratio"), [(4, 0.3), (8, 0.3), (16, 0.3)])
def test_widths_are_multiples_of_what_the_target_asks_for(multiple, ratio):
    network = student(**{**WIDE, "widths": [32, 48, 64]})
    small = pruned(network, multiple=multiple, ratio=ratio)
    assert all(w % multiple == 0 for n, w in widths(small).items() if n != "head")


def test_no_layer_loses_more_than_its_share_under_global_ranking():
    network = student(**WIDE)
    with torch.no_grad():
        network.encoder[0][0].expand.conv.weight.mul_(1e-4)
    small = pruned(network, ratio=0.5, max_ratio=0.5, global_ranking=True)
    assert widths(small)["encoder.0.0.expand.conv"] >= widths(network)["encoder.0.0.expand.conv"] // 2


def test_rounds_reach_the_same_widths_step_by_step():
    network = student(**WIDE)
    sizes = [sum(widths(step).values()) for step in shrink(network, Shrink(0.5, 0.75, 8, rounds=3))]
    assert len(sizes) == 3
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == sum(widths(pruned(network)).values())


def test_a_pruned_network_still_trains():
    small = pruned(student(**{**WIDE, "se_from": 0})).train()
    small(torch.rand(2, 3, 32, 32)).mean().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in small.parameters())


def test_the_table_names_every_layer():
    assert table({"a": 24, "b": 8}, {"a": 16, "b": 8}) == "channels a 24→16, b 8"


def test_the_last_convolution_is_found_by_running_the_network():
    network = student()
    assert output_convolution(network, torch.zeros(1, 3, 32, 32)) is network.head


def test_a_network_without_convolutions_is_refused():
    with pytest.raises(UsageError, match="prune: ReLU has no convolution"):
        list(shrink(nn.ReLU(), Shrink(0.5, 0.5, 8)))


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
