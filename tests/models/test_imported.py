import pytest
import torch
from torch import nn

from models import checkpoint
from models.arch import build, code_of, load_arch, parse_config
from models.export import export_onnx
from models.imported import ImportedNetwork
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


class Needy(Mine):
    """Has an argument without default, one with the name of a key of the pipeline's, and attributes that speak for it."""

    size_multiple = 4
    padding = "zero"

    def __init__(self, width: int, *, range: int = 1, act: str = "relu") -> None:
        if act != "relu":
            raise ValueError(f"no such activation: {act}")
        super().__init__(width * range)

    def features(self, lq: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        return self(lq), [self.first(lq)]


class Anything(Mine):
    def __init__(self, **options) -> None:
        super().__init__(options.get("width", 2))
        self.options = options


class Scales(nn.Module):
    """Signed images in; a quarter, half and full size out, as MIMO-UNet gives them."""

    size_multiple = 4

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        full = torch.tanh(self.conv(x))
        return [full[..., ::4, ::4], full[..., ::2, ::2], full]


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> object:
        return {"restored": self.conv(x)}

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


def of(name, **config):
    return lively(build(f"tests.models.test_imported:{name}", config))


def refused(call, *args):
    with pytest.raises(UsageError) as e:
        call(*args)
    assert len(str(e.value).splitlines()) == 2
    return str(e.value)


def test_a_network_of_ones_own_reloads_and_takes_any_size(tmp_path):
    network = of("Mine", width=6, size_multiple=4, taps=["first", "second.0"])
    lq = image(8, 12)
    out, features = network.features(lq)
    assert torch.equal(out, network(lq))
    assert [f.shape for f in features] == [(1, 6, 2, 3), (1, 6, 2, 3)]
    checkpoint.save(tmp_path / "mine.safetensors", network, PATH)
    loaded = checkpoint.load(tmp_path / "mine.safetensors")
    assert loaded.config == {"width": 6, "size_multiple": 4, "taps": ["first", "second.0"]}
    assert torch.equal(loaded.module(lq), network(lq))
    assert restore(loaded.module, image(5, 9)).shape == (1, 3, 5, 9)


def test_arguments_stand_beside_the_keys_or_in_kwargs():
    assert of("Mine", kwargs={"width": 6}).network.first.out_channels == 6
    assert of("Mine", kwargs={"width": 6}).config.model_dump(mode="json") == {"kwargs": {"width": 6}}
    both = of("Needy", width=2, kwargs={"range": 3}, range="signed")
    assert both.network.first.out_channels == 6
    assert load_arch("tests.models.test_imported:Needy").config_of(both) == {"width": 2, "kwargs": {"range": 3}, "range": "signed"}
    assert of("Anything", width=5, copy=2, kwargs={"json": 3}).network.options == {"width": 5, "copy": 2, "json": 3}


def test_the_class_speaks_for_itself_unless_the_configuration_does():
    own, other = of("Needy", width=2), of("Needy", width=2, size_multiple=8, padding="replicate", taps=["first", "second.0"])
    assert (own.size_multiple, own.padding) == (4, "zero")
    assert (other.size_multiple, other.padding) == (8, "replicate")
    assert (of("Mine").size_multiple, of("Mine").padding) == (1, "reflect")
    assert len(own.features(image(8, 8))[1]) == 1
    assert len(other.features(image(8, 8))[1]) == 2
    assert of("Mine").features(image(8, 8))[1] == []
    assert load_arch("tests.models.test_imported:Needy").official(own) is own.network


def test_ranges_and_several_outputs_are_translated(tmp_path):
    network, lq = of("Scales", range="signed"), image(8, 12)
    with torch.no_grad():
        full = network.network(2 * lq - 1)[2]
        assert torch.equal(network(lq), 0.5 * full + 0.5)
    unit = of("Scales")
    half = ImportedNetwork(unit.network, unit.config.model_copy(update={"output": 1}))
    with torch.no_grad():
        assert torch.equal(unit(lq), unit.network(lq)[2])
        assert torch.equal(half(lq), unit.network(lq)[1])
    export_onnx(network, tmp_path / "net.onnx")
    import onnxruntime

    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    exported = session.run(["restored"], {"lq": image(16, 20).numpy()})[0]
    with torch.no_grad():
        assert abs(exported - network(image(16, 20)).numpy()).max() <= 1e-5


def test_what_a_network_may_not_return():
    lq = image(8, 8)
    assert refused(of("Odd"), lq) == "Odd: returns a 'dict'\nhint: return the restored images, or a list with them"
    assert refused(of("Odd").features, lq).startswith("Odd.features: does not return two things\nhint: ")
    assert refused(of("Scales", output=3), lq).startswith("Scales: output: there is no element 3 of the 3 that it returns (")
    smaller = of("Scales")
    smaller.network.forward = lambda x: [x[..., ::2]]
    assert "none is [1, 3, 8, 8] of the 1 that it returns ([1, 3, 8, 4])\nhint: set output:" in refused(smaller, lq)


@pytest.mark.parametrize(
    ("path", "config", "message"),
    [
        ("nothing.here:Net", {}, "cannot import 'nothing.here'"),
        ("tests.models.test_imported", {}, "names no class"),
        ("tests.models.test_imported:Absent", {}, "'Absent' in 'tests.models.test_imported' is no torch.nn.Module class"),
        ("tests.models.test_imported:PATH", {}, "is no torch.nn.Module class"),
        (PATH, {"wdith": 3}, "wdith: unknown key\nhint: did you mean 'width'?"),
        (PATH, {"size_multipel": 3}, "did you mean 'size_multiple'?"),
        (PATH, {"kwargs": {"wdith": 3}}, "Mine takes no 'wdith'; did you mean 'width'?"),
        (PATH, {"kwargs": {"width": 3}, "width": 3}, "'width' stands beside kwargs and in it: give it once"),
        (PATH, {"width": object}, "Mine: Object of type type is not JSON serializable"),
        (PATH.replace("Mine", "Needy"), {}, "Needy: missing a required argument: 'width'"),
        (PATH, {"size_multiple": 0}, "size_multiple"),
        (PATH, {"range": "signd"}, "range: Input should be 'unit' or 'signed'"),
        (PATH, {"padding": "mirror"}, "padding"),
    ],
)
def test_wrong_names_and_arguments_are_found_before_anything_is_built(path, config, message):
    assert message in refused(parse_config, path, config)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("Mine", {"taps": ["frist"]}, "did you mean 'first'?"),
        ("Mine", {"width": "wide"}, "the class refuses width='wide' ("),
        ("Needy", {"width": 1, "act": "gelu"}, "the class refuses width=1, act='gelu' (no such activation: gelu)"),
    ],
)
def test_what_only_the_class_knows_is_found_on_building(name, config, message):
    assert message in refused(build, f"tests.models.test_imported:{name}", config)


def test_unknown_name_suggests_a_known_one():
    with pytest.raises(UsageError, match=r"unknown architecture 'nafnett'\nhint: did you mean 'nafnet'\?"):
        load_arch("nafnett")


def test_the_code_of_ones_own_network_is_its_module():
    assert code_of("my_package.my_net:Net") == ("my_package.my_net",)
    assert code_of("nafnet") == ()
