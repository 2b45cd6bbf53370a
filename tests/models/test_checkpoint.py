import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from models import checkpoint
from models.arch import build, load_arch
from pipeline.errors import StageFailed, UsageError
from tests.models.helpers import small


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "student.safetensors"
    checkpoint.save(path, small("student"), "student", history=[{"stage": "distill"}])
    return path


def rewrite(path, tensors=None, **changes):
    """Write the file again with parts of its header changed."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["checkpoint"])
    save_file(load_file(path) if tensors is None else tensors, path, {"checkpoint": json.dumps(header | changes)})


def test_equal_content_gives_equal_bytes(saved, tmp_path):
    again = tmp_path / "again" / "b.safetensors"
    network = small("student").to(memory_format=torch.channels_last)
    checkpoint.save(again, network, "student", load_arch("student").config_of(network), [{"stage": "distill"}])
    assert again.read_bytes() == saved.read_bytes()
    assert set(saved.parent.iterdir()) == {again.parent, saved}


def test_header_is_readable_without_torch(saved):
    code = (
        "import sys, pathlib; from models.checkpoint import read_header; h = read_header(pathlib.Path(sys.argv[1]));"
        "assert 'torch' not in sys.modules; print(h.arch, h.input, h.history, h.config['network']['stem']['width'])"
    )
    out = subprocess.run([sys.executable, "-c", code, str(saved)], capture_output=True, text=True, check=True).stdout
    assert out == "student {'colours': 'RGB', 'layout': 'NCHW', 'range': [0, 1], 'size_multiple': 8} [{'stage': 'distill'}] 8\n"


def test_half_precision_is_stored_as_float32(tmp_path):
    network = small("student").half()
    checkpoint.save(tmp_path / "h.safetensors", network, "student")
    loaded = checkpoint.load(tmp_path / "h.safetensors").module
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    for a, b in zip(loaded.parameters(), network.parameters(), strict=True):
        assert torch.equal(a, b.float())


def test_a_failed_write_leaves_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(saved, small("student", skip="concat"), "student")
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_configuration_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(StageFailed, match=r"the configuration does not fit the network: .* missing, e\.g\. 'decoder\.0\.merge"):
        checkpoint.save(tmp_path / "x.safetensors", small("student"), "student", {**load_arch("student").small, "skip": "concat"})
    assert not list(tmp_path.iterdir())


def test_equal_widths_do_not_invent_a_residual(tmp_path):
    exact = load_arch("student").config(widths=(8, 16, 16), depths=(1, 1, 2)).exact().model_dump()
    exact["encoder"][2][1]["residual"] = False
    network = build("student", {"network": exact}).eval()
    checkpoint.save(tmp_path / "x.safetensors", network, "student")
    assert checkpoint.load(tmp_path / "x.safetensors").module.encoder[2][1].add is None


def says(error, what, hint):
    first, second = str(error.value).splitlines()
    assert what in first
    assert second.startswith(f"hint: {hint}")


def test_missing_file(tmp_path):
    with pytest.raises(UsageError) as e:
        checkpoint.load(tmp_path / "none.safetensors")
    says(e, "none.safetensors: no such file", "give a checkpoint that the pipeline wrote")


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", b"\xff" * 64])
def test_not_a_safetensors_file(content, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(UsageError) as e:
        checkpoint.load(tmp_path / "x.safetensors")
    says(e, "not a safetensors file", "give a checkpoint that the pipeline wrote")


def test_truncated_file(saved):
    saved.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(UsageError) as e:
        checkpoint.load(saved)
    says(e, "not a safetensors file", "give a checkpoint that the pipeline wrote")


def test_file_without_a_header(saved):
    save_file(load_file(saved), saved)
    with pytest.raises(UsageError) as e:
        checkpoint.load(saved)
    says(e, "its header does not say which network it is", "give a checkpoint that the pipeline wrote")


def test_unreadable_header(saved):
    save_file(load_file(saved), saved, {"checkpoint": '{"format": 1}'})
    with pytest.raises(UsageError) as e:
        checkpoint.load(saved)
    says(e, "its header cannot be read (KeyError: 'arch')", "write the checkpoint again")


def test_newer_format(saved):
    rewrite(saved, format=9)
    with pytest.raises(UsageError) as e:
        checkpoint.load(saved)
    says(e, "checkpoint format 9, but this version reads 1", "use the version that wrote it")


def test_unknown_architecture(saved):
    rewrite(saved, arch="studnet")
    with pytest.raises(UsageError) as e:
        checkpoint.load(saved)
    says(e, "student.safetensors: arch: unknown architecture 'studnet'", "did you mean 'student'?")


def test_wrong_configuration(saved):
    rewrite(saved, config={"widht": 3})
    with pytest.raises(UsageError) as e:
        checkpoint.load(saved)
    says(e, "student.safetensors: config of student: widht: unknown key", "did you mean 'widths'?")


def test_tensors_that_do_not_fit(saved):
    tensors = load_file(saved)
    tensors["head.weight"] = torch.zeros(12, 9, 3, 3)
    rewrite(saved, tensors)
    with pytest.raises(UsageError) as e:
        checkpoint.load(saved)
    says(e, "tensor 'head.weight' is [12, 9, 3, 3] but the network has [12, 8, 3, 3]", "the file does not hold the student")


def test_missing_and_surplus_tensors(saved):
    tensors = load_file(saved)
    head = tensors.pop("head.weight")
    rewrite(saved, tensors)
    with pytest.raises(UsageError, match=r"1 tensor\(s\) missing, e\.g\. 'head\.weight'"):
        checkpoint.load(saved)
    rewrite(saved, tensors | {"head.weight": head, "tail.weight": head.clone()})
    with pytest.raises(UsageError, match=r"1 tensor\(s\) without a place in the network, e\.g\. 'tail\.weight'"):
        checkpoint.load(saved)


def test_a_header_cannot_call_what_is_no_network(saved, tmp_path):
    rewrite(saved, arch="os:system", config={"kwargs": {"command": f"touch {tmp_path}/owned"}})
    with pytest.raises(UsageError) as e:
        checkpoint.load(saved)
    says(e, "'system' in 'os' is no torch.nn.Module class", "write package.module:Class")
    assert not (tmp_path / "owned").exists()
