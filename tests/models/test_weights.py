import pickle

import pytest
import torch

from models import checkpoint
from models.arch import build, load_arch
from models.weights import load_weights, read_state
from pipeline.errors import UsageError
from tests.models.helpers import image, lively, small


def fresh(name):
    return build(name, load_arch(name).small).eval()


def wrap(state, wrapper, prefix):
    state = {prefix + name: tensor for name, tensor in state.items()}
    return {wrapper: state, "iteration": 3} if wrapper else state


@pytest.mark.parametrize("wrapper", ["params", "model", "state_dict", ""])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("name", ["nafnet", "student"])
def test_published_layouts(name, wrapper, prefix, tmp_path):
    source, target = small(name), fresh(name)
    torch.save(wrap(source.state_dict(), wrapper, prefix), tmp_path / "w.pth")
    load_weights(target, tmp_path / "w.pth")
    with torch.no_grad():
        assert torch.equal(target(image(16, 16)), source(image(16, 16)))


def test_counters_of_batch_norm_may_be_missing(tmp_path):
    state = {k: v for k, v in small("student").state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "w.pth")
    load_weights(fresh("student"), tmp_path / "w.pth")


def test_the_pipelines_own_checkpoint(tmp_path):
    source, target = small("student"), fresh("student")
    checkpoint.save(tmp_path / "w.safetensors", source, "student")
    load_weights(target, tmp_path / "w.safetensors")
    with torch.no_grad():
        assert torch.equal(target(image(16, 16)), source(image(16, 16)))


def test_a_users_own_network_takes_its_own_names(tmp_path):
    path = "tests.models.test_imported:Mine"
    source, target = lively(build(path, {})), build(path, {})
    torch.save(source.network.state_dict(), tmp_path / "w.pth")
    load_weights(target, tmp_path / "w.pth")
    assert torch.equal(target(image(8, 8)), source(image(8, 8)))
    checkpoint.save(tmp_path / "w.safetensors", source, path)
    load_weights(target, tmp_path / "w.safetensors")


class Trap:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_pickle_is_executed(tmp_path):
    (tmp_path / "w.pth").write_bytes(pickle.dumps({"params": Trap()}))
    with pytest.raises(UsageError, match="cannot be read as weights"):
        read_state(tmp_path / "w.pth")
    torch.save({"params": Trap()}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match="cannot be read as weights"):
        read_state(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"params": {"intro.weight": torch.zeros(1)}}, "tensor(s) missing"),
        ({"params": {}}, "it holds no weights by name"),
        ([torch.zeros(1)], "it holds no weights by name"),
    ],
)
def test_weights_that_do_not_fit(content, message, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UsageError) as e:
        load_weights(fresh("nafnet"), tmp_path / "w.pth")
    assert message in str(e.value)
    assert len(str(e.value).splitlines()) == 2


@pytest.mark.parametrize(("name", "content"), [("w.pth", b""), ("w.pth", b"garbage"), ("w.safetensors", b"garbage")])
def test_unreadable_files(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match="cannot be read as weights"):
        read_state(tmp_path / name)


def test_missing_file(tmp_path):
    with pytest.raises(UsageError, match=r"none.pth: no such file"):
        read_state(tmp_path / "none.pth")
