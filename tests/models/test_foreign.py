"""Every architecture that reads published weights is found from them and comes back as it was; nothing here names one of them all."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models import checkpoint, load_checkpoint
from models.arch import build, known_archs, load_arch
from models.foreign import _fitting, _Reading
from models.restore import restore
from models.weights import is_counter
from pipeline.errors import UsageError
from tests.models.helpers import image, lively, small

CASES = {
    "-".join((name, *label)): (name, config)
    for name in known_archs()
    for label, config in [([], {}), *(([variant], values) for variant, values in load_arch(name).variants.items())]
}


def published(name, config=None):
    """The architecture's smallest network, its weights under the published names, and the keys that no file tells (None: it reads none)."""
    network = small(name, **(config or {}))
    state = {key: tensor for key, tensor in load_arch(name).official(network).state_dict().items() if not is_counter(key)}
    read = load_arch(name).read({key: tuple(tensor.shape) for key, tensor in state.items()})
    full = load_arch(name).config_of(network)
    return network, state, None if read is None else {key: value for key, value in full.items() if read.get(key) != value}


def rebuilt(name, config):
    """The configuration of the network that ``config`` builds."""
    with torch.device("meta"):
        return load_arch(name).config_of(build(name, config))


READABLE = {label: case for label, case in CASES.items() if published(*case)[2] is not None}
every_case = pytest.mark.parametrize(("name", "config"), READABLE.values(), ids=READABLE)
every_arch = pytest.mark.parametrize("name", sorted({name for name, _ in READABLE.values()}))


def wrapped(state, wrappers, prefix):
    content = {prefix + key: tensor for key, tensor in state.items()}
    for wrapper in wrappers:
        content = {wrapper: content, "iteration": 3}
    return content


def refused(path, *args, **config):
    with pytest.raises(UsageError) as e:
        load_checkpoint(path, *args, **config)
    assert len(str(e.value).splitlines()) == 2
    return e.value


def check_equal(teacher, network, name):
    side = 2 * network.size_multiple
    lq = image(side, side)
    with torch.no_grad():
        assert torch.equal(teacher.network(lq), network(lq))
    assert teacher.arch == name
    assert type(teacher.module) is type(load_arch(name).official(network))
    assert not teacher.network.training
    assert not teacher.module.training
    assert {tensor.dtype for tensor in teacher.network.parameters()} == {torch.float32}


def test_published_networks_are_readable():
    assert {"nafnet"} <= {name for name, _ in READABLE.values()}


@every_case
@pytest.mark.parametrize(
    ("file", "wrappers", "prefix"),
    [
        ("w.pth", ["params"], ""),
        ("w.pkl", ["model"], "module."),
        ("w.ckpt", ["state_dict", "generator"], "generator._orig_mod."),
        ("w.h5", [], "network."),
    ],
)
def test_found_in_every_wrapping(name, config, file, wrappers, prefix, tmp_path):
    network, state, untold = published(name, config)
    torch.save(wrapped(state, wrappers, prefix), tmp_path / file, _use_new_zipfile_serialization=file != "w.pkl")
    teacher = load_checkpoint(tmp_path / file, **untold)
    check_equal(teacher, network, name)
    assert json.loads(json.dumps(teacher.config)) == teacher.config
    assert rebuilt(name, teacher.config) == load_arch(name).config_of(network)


@every_case
def test_found_in_safetensors_and_by_name(name, config, tmp_path):
    network, state, untold = published(name, config)
    save_file({f"module.{key}": tensor.half().contiguous() for key, tensor in state.items()}, tmp_path / "w.pth")
    load_arch(name).official(network).load_state_dict({key: tensor.half().float() for key, tensor in state.items()}, strict=False)
    check_equal(load_checkpoint(str(tmp_path / "w.pth"), name, **untold), network, name)


@every_case
@pytest.mark.parametrize("place", [0, 0.3, 0.7, -1])
def test_damaged_weights_name_architecture_and_key(name, config, place, tmp_path):
    _, state, untold = published(name, config)
    key = list(state)[place if place == -1 else int(place * len(state))]
    path = tmp_path / "w.pth"

    torch.save({other: tensor for other, tensor in state.items() if other != key}, path)
    what = refused(path, **untold).what  # "looks like", or "the nearest is" where an architecture cannot be read without that key
    assert name in what
    assert what.endswith(f": 1 missing: '{key}'")
    assert refused(path, name, **untold).what == f"does not fit {name}: 1 missing: '{key}'"

    grown = torch.cat([state[key], state[key][:1]])
    torch.save({**state, key: grown}, path)
    shapes = f"'{key}' {list(grown.shape)} instead of {list(state[key].shape)}"
    assert refused(path, **untold).what == f"looks like {name}, but does not fit: 1 of another shape: {shapes}"

    torch.save({**state, "spare.weight": grown}, path)
    error = refused(path, **untold)
    assert error.what == f"looks like {name}, but does not fit: 1 unexpected: 'spare.weight'"
    assert error.hint == f"give complete weights of {name}, or name a class of your own: arch='package.module:Class'"


@every_arch
def test_unknown_weights_name_the_nearest_architecture(name, tmp_path):
    _, state, _ = published(name)
    torch.save({f"{key}.inner" if i % 5 else key: tensor for i, (key, tensor) in enumerate(state.items())}, tmp_path / "w.pth")
    error = refused(tmp_path / "w.pth")
    assert f"fits no known architecture; the nearest is {name} (" in error.what
    assert " missing: '" in error.what
    assert " unexpected: '" in error.what
    assert error.hint.startswith("known: ")
    assert all(known in error.hint for known in known_archs())


def test_weights_of_something_else_name_a_key_of_theirs(tmp_path):
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3), "classifier.6.bias": torch.zeros(10)}, tmp_path / "vgg.pth")
    error = refused(tmp_path / "vgg.pth")
    assert error.what.startswith("fits no known architecture; the nearest is ")
    assert "2 unexpected: 'features.0.weight', 'classifier.6.bias'" in error.what


@every_arch
def test_restore_takes_any_size(name, tmp_path):
    _, state, untold = published(name)
    torch.save(state, tmp_path / "w.pth")
    teacher = load_checkpoint(tmp_path / "w.pth", **untold)
    whole = 2 * teacher.network.size_multiple
    with torch.no_grad():
        assert torch.equal(teacher.restore(image(whole, whole, 2)), teacher.network(image(whole, whole, 2)))
    out = teacher.restore(image(whole + 1, 2 * whole - 3))
    assert out.shape == (1, 3, whole + 1, 2 * whole - 3)
    assert out.dtype == torch.float32
    out.clamp_(0, 1)  # an ordinary tensor, not one of inference mode


@pytest.mark.parametrize("lq", [torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 8), torch.zeros(1, 1, 8, 8)])
def test_restore_says_what_it_takes(lq, tmp_path):
    torch.save(published("nafnet")[1], tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"lq: is (uint8|float32) \[[\d, ]+\]\nhint: give float32 \[N, 3, height, width\]"):
        load_checkpoint(tmp_path / "w.pth").restore(lq)


class TestKeys:
    @pytest.fixture
    def file(self, tmp_path):
        torch.save({"params": published("nafnet")[1]}, tmp_path / "naf.pth")
        return tmp_path / "naf.pth"

    def test_those_that_change_no_weights_are_applied(self, file):
        teacher = load_checkpoint(file, tlc=32)
        assert teacher.config == {**load_checkpoint(file).config, "tlc": 32}
        assert teacher.network.tlc == 32

    def test_those_that_repeat_the_weights_are_fine(self, file):
        assert load_checkpoint(file, width=4, enc_blk_nums=(1, 2)).config["width"] == 4

    @pytest.mark.parametrize("arch", [None, "nafnet"])
    def test_those_that_contradict_the_weights(self, file, arch):
        error = refused(file, arch, width=64)
        assert (error.where, error.what) == (str(file), "its weights say width = 4, not 64")
        assert error.hint == "leave width out: it is read from the weights"
        assert refused(file, arch, tlc=32, enc_blk_nums=[1]).what == "its weights say enc_blk_nums = [1, 2], not [1]"

    @pytest.mark.parametrize("arch", [None, "nafnet"])
    def test_unknown_ones_and_bad_values(self, file, arch):
        assert str(refused(file, arch, widht=4)) == "config of nafnet: widht: unknown key\nhint: did you mean 'width'?"
        assert refused(file, arch, tlc="far").where == "config of nafnet: tlc"

    def test_unknown_architectures(self, file):
        assert str(refused(file, "nafnett")) == "arch: unknown architecture 'nafnett'\nhint: did you mean 'nafnet'?"

    def test_another_architecture_than_the_weights_are_of(self, file):
        assert refused(file, "student").what.startswith("does not fit student: ")

    def test_files_that_are_no_weights(self, tmp_path):
        (tmp_path / "w.pth").write_bytes(b"<html>")
        assert refused(tmp_path / "w.pth").what == "is a web page, not weights: the download did not work"


class Twin(nn.Module):
    """A class of one's own all of whose weights lie under one name."""

    size_multiple = 2

    def __init__(self, width: int, wide: bool = False) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, lq: torch.Tensor) -> torch.Tensor:
        return lq + self.network(lq)


class TestAClassOfOnesOwn:
    arch = "tests.models.test_foreign:Twin"

    @pytest.mark.parametrize("prefix", ["", "module."])
    def test_its_weights_load_with_its_arguments(self, prefix, tmp_path):
        network = lively(build(self.arch, {"width": 5}))
        torch.save(wrapped(network.network.state_dict(), ["model"], prefix), tmp_path / "w.pth")
        teacher = load_checkpoint(tmp_path / "w.pth", self.arch, width=5)
        assert torch.equal(teacher.restore(image(7, 9)), restore(network, image(7, 9)))
        assert torch.equal(teacher.module(image(8, 10)), network(image(8, 10)))
        assert type(teacher.module) is Twin
        assert teacher.config == {"width": 5}

    def test_wrong_arguments_are_named(self, tmp_path):
        torch.save(build(self.arch, {"width": 5}).network.state_dict(), tmp_path / "w.pth")
        assert "missing a required argument: 'width'" in refused(tmp_path / "w.pth", self.arch).what
        assert refused(tmp_path / "w.pth", self.arch, widht=5).hint == "did you mean 'width'?"
        error = refused(tmp_path / "w.pth", self.arch, width=6)
        assert error.what.startswith(
            f"does not fit {self.arch}: 3 of another shape: 'network.0.weight' [5, 3, 3, 3] instead of [6, 3, 3, 3]"
        )


class TestThePipelinesOwn:
    @every_case
    def test_loads_with_its_official_part(self, name, config, tmp_path):
        network, _, _ = published(name, config)
        checkpoint.save(tmp_path / "w.safetensors", network, name)
        teacher = load_checkpoint(tmp_path / "w.safetensors")
        check_equal(teacher, network, name)
        assert rebuilt(name, teacher.config) == load_arch(name).config_of(network)

    def test_the_student_does_as_well(self, tmp_path):
        checkpoint.save(tmp_path / "w.safetensors", small("student"), "student")
        teacher = load_checkpoint(tmp_path / "w.safetensors", "student")
        check_equal(teacher, small("student"), "student")
        assert rebuilt("student", teacher.config) == load_arch("student").config_of(small("student"))

    def test_keys_on_top(self, tmp_path):
        checkpoint.save(tmp_path / "w.safetensors", small("nafnet"), "nafnet")
        assert load_checkpoint(tmp_path / "w.safetensors", tlc=32).network.tlc == 32
        assert refused(tmp_path / "w.safetensors", width=8).what == "its weights say width = 4, not 8"
        assert refused(tmp_path / "w.safetensors", "student").what == "holds a 'nafnet', not a 'student'"


def test_loading_leaves_the_random_numbers_alone(tmp_path):
    torch.save(published("nafnet")[1], tmp_path / "w.pth")
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    load_checkpoint(tmp_path / "w.pth")
    assert torch.equal(torch.rand(4), expected)


def test_two_architectures_that_fit_alike_are_both_named():
    alike = [_Reading(name, load_arch(name).small, small(name).state_dict(), lambda network: network) for name in ("nafnet", "student")]
    assert _fitting(Path("w.pth"), alike[1:], {}, None)[0].arch == "student"
    with pytest.raises(UsageError, match=r"w.pth: fits nafnet and student alike\nhint: say which it is: arch='nafnet'"):
        _fitting(Path("w.pth"), alike, {}, None)


def test_the_package_loads_no_torch():
    code = "import sys, models; models.load_checkpoint; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], timeout=60).returncode == 0
