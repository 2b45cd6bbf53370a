import copy

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.arch import build, load_arch
from models.export import export_onnx
from models.nafnet.local import LocalAttention, LocalMean
from tests.models.helpers import image, small

DEEP = {"width": 4, "enc_blk_nums": [1, 1, 1, 2], "middle_blk_num": 1, "dec_blk_nums": [1, 1, 1, 1]}


class IntegralImage(nn.Module):
    """The published formulation, whose window is frozen by the first forward pass."""

    def __init__(self, train, conv):
        super().__init__()
        self.train_size, self.conv, self.window = train, conv, None

    def forward(self, x):
        height, width = x.shape[2:]
        if self.window is None:
            base = int(1.5 * self.train_size)
            self.window = (height * base // self.train_size, width * base // self.train_size)
        high, wide = self.window
        if high >= height and wide >= width:
            return self.conv(x.mean((2, 3), keepdim=True))
        high, wide = min(high, height), min(wide, width)
        s = F.pad(x.cumsum(3).cumsum(2), (1, 0, 1, 0))
        mean = (s[:, :, high:, wide:] - s[:, :, :-high, wide:] - s[:, :, high:, :-wide] + s[:, :, :-high, :-wide]) / (high * wide)
        rows, columns = height - mean.shape[2], width - mean.shape[3]
        padding = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        return self.conv(F.pad(mean, padding, mode="replicate"))


def published(network, train):
    twin = copy.deepcopy(network).double()
    for block in twin.modules():
        if hasattr(block, "sca"):
            block.sca = IntegralImage(train, block.sca[1])
    with torch.no_grad():
        twin(torch.zeros(1, 3, train, train, dtype=torch.float64))
    return twin


def pools(network):
    return [block.sca for block in network.modules() if hasattr(block, "sca")]


@pytest.mark.parametrize("tlc", [8, 33, 64])
def test_the_whole_network_agrees_with_integral_images_in_float64(tlc):
    network = small("nafnet", **DEEP, tlc=tlc)
    expected = published(network, tlc)
    assert [p[0].window for p in pools(network)] == [p.window[0] for p in pools(expected)]
    for size in ((64, 96), (37, 53), (16, 200), (113, 90)):
        with torch.no_grad():
            assert (network(image(*size)) - expected(image(*size).double())).abs().max() < 2e-6


def test_published_windows():
    with torch.device("meta"):
        windows = [p[0].window for p in pools(build("nafnet", {"tlc": 256}))]
    assert sorted(windows) == [24, *[48] * 29, 96, 96, 192, 192, 384, 384]


@pytest.mark.parametrize("window", [384, 37])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_means_of_a_frame_keep_their_digits(window, layout):
    x = (image(720, 1280)[:, :2] + 30).contiguous(memory_format=layout)
    expected = x.double().unfold(3, window, 1).mean(-1).unfold(2, window, 1).mean(-1)
    with torch.inference_mode():
        assert (LocalMean(window)(x) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("size", [(12, 12), (5, 12), (3, 9)])
def test_a_window_that_covers_the_map_is_the_whole_mean(size):
    x = torch.randn(1, 4, *size)
    assert torch.equal(LocalMean(12)(x), x.mean((2, 3), keepdim=True))
    network, whole = small("nafnet", tlc=64), small("nafnet")
    with torch.no_grad():
        assert torch.equal(network(image(80, 96)), whole(image(80, 96)))
        assert (network(image(80, 100)) - whole(image(80, 100))).abs().max() > 1e-5


def test_one_side_smaller_than_the_window():
    x = torch.randn(1, 2, 5, 40)
    expected = torch.stack([x[..., i : i + 12].mean((2, 3)) for i in range(29)], -1)[:, :, None]
    torch.testing.assert_close(LocalMean(12)(x), expected)


def test_attention_is_centred_on_the_window():
    attention = LocalAttention(1, 4)
    nn.init.ones_(attention[1].weight)
    nn.init.zeros_(attention[1].bias)
    x = torch.arange(8.0).expand(1, 1, 8, 8)
    assert attention(x)[0, 0, 3].tolist() == [1.5, 1.5, 2.5, 3.5, 4.5, 5.5, 5.5, 5.5]


def test_gradients_are_those_of_the_means():
    x = torch.randn(1, 2, 6, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(LocalMean(5), (x,))
    assert torch.autograd.gradcheck(LocalMean(7), (x,))


def test_half_precision_does_not_overflow():
    x = torch.full((1, 1, 60, 70), 100.0, dtype=torch.float16)
    mean = LocalMean(48)(x)
    assert mean.dtype == torch.float16
    assert (mean == 100).all()


def test_names_are_those_of_the_plain_network_and_the_config_says_the_size():
    network, plain = small("nafnet", tlc=16), small("nafnet")
    assert {k: v.shape for k, v in network.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}
    assert load_arch("nafnet").config_of(network)["tlc"] == 16
    assert load_arch("nafnet").config_of(plain)["tlc"] is None


def test_a_file_of_fixed_size_needs_no_operator_that_old_runtimes_lack(tmp_path):
    export_onnx(small("nafnet", tlc=16), tmp_path / "a.onnx", height=40, width=20)
    used = {node.op_type for node in onnx.load(str(tmp_path / "a.onnx")).graph.node}
    plain = {"Conv", "Mul", "Add", "Sub", "Div", "Sqrt", "ReduceMean", "Slice", "Split", "DepthToSpace"}
    assert used - plain == {"Gather", "Pad"}
