import pytest
import torch
from torch import nn

from models import checkpoint
from models.arch import build, load_arch
from models.restore import restore
from pipeline.errors import UsageError
from tests.models.helpers import image, lively

PATH = "tests.models.test_imported:Mine"


class Mine(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 4, 4)
        self.second = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(width, 3, 4, 4))

    def forward(self, lq: torch.Tensor) -> torch.Tensor:
        return lq + self.second(self.first(lq))


def test_a_network_of_ones_own_reloads_and_takes_any_size(tmp_path):
    network = lively(build(PATH, {"kwargs": {"width": 6}, "size_multiple": 4, "taps": ["first", "second.0"]}))
    lq = image(8, 12)
    out, features = network.features(lq)
    assert torch.equal(out, network(lq))
    assert [f.shape for f in features] == [(1, 6, 2, 3), (1, 6, 2, 3)]
    checkpoint.save(tmp_path / "mine.safetensors", network, PATH)
    loaded = checkpoint.load(tmp_path / "mine.safetensors")
    assert loaded.config == {"kwargs": {"width": 6}, "size_multiple": 4, "taps": ["first", "second.0"]}
    assert torch.equal(loaded.module(lq), network(lq))
    assert restore(loaded.module, image(5, 9)).shape == (1, 3, 5, 9)


@pytest.mark.parametrize(
    ("path", "config", "message"),
    [
        ("nothing.here:Net", {}, "cannot import 'nothing.here'"),
        ("tests.models.test_imported", {}, "names no class"),
        ("tests.models.test_imported:Absent", {}, "'Absent' in 'tests.models.test_imported' is no torch.nn.Module class"),
        ("tests.models.test_imported:PATH", {}, "is no torch.nn.Module class"),
        (PATH, {"width": 3}, "unknown key"),
        (PATH, {"kwargs": {"wdith": 3}}, "unexpected keyword argument 'wdith'"),
        (PATH, {"taps": ["frist"]}, "did you mean 'first'?"),
        (PATH, {"size_multiple": 0}, "size_multiple"),
    ],
)
def test_wrong_names_and_arguments(path, config, message):
    with pytest.raises(UsageError) as e:
        build(path, config)
    assert message in str(e.value)
    assert len(str(e.value).splitlines()) == 2


def test_unknown_name_suggests_a_known_one():
    with pytest.raises(UsageError, match=r"unknown architecture 'nafnett'\nhint: did you mean 'nafnet'\?"):
        load_arch("nafnett")
