import json
import subprocess
import sys

import pytest

from pipeline.errors import StageFailed
from quantize.artifact import ModelFolder
from quantize.folder import write_folder
from tests.quantize.toys import quantized, student


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folded, ready = quantized(student())
    return write_folder(tmp_path_factory.mktemp("model") / "model", folded, "student", 17, ready).path


@pytest.fixture
def path(written, tmp_path):
    import shutil

    return shutil.copytree(written, tmp_path / "model")


def test_it_says_what_a_consumer_needs(path):
    folder = ModelFolder(path)
    assert folder.has_int8
    assert folder.size_multiple == 8
    assert folder.facts.precisions == ("fp32", "int8")
    assert folder.float.is_file()
    assert folder.checkpoint.is_file()
    assert folder.qdq("s8").name == "qdq_s8.onnx"
    low, high = folder.facts.scale_range
    assert 0 < low < high
    assert set(folder.scales()) >= {"activations", "weights", "activation_range", "weight_range"}


def test_the_checkpoint_is_the_network_of_the_float_file(path):
    import numpy as np
    import onnxruntime
    import torch

    from models.checkpoint import load

    folder = ModelFolder(path)
    x = torch.rand(1, 3, 32, 32)
    session = onnxruntime.InferenceSession(str(folder.float), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        assert np.allclose(session.run(None, {"lq": x.numpy()})[0], load(folder.checkpoint).module(x), atol=1e-4)


def test_reading_it_needs_neither_torch_nor_onnx(path):
    code = (
        "import sys; from pathlib import Path; from quantize.artifact import ModelFolder\n"
        f"print(ModelFolder(Path({str(path)!r})).qdq('u8'))\n"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(path / "qdq_u8.onnx"), "[]"]


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(StageFailed, match=r"model.json: no such file: this is not a model folder"):
        ModelFolder(tmp_path)


@pytest.mark.parametrize("content", ["{", '{"schema": 1}', b"\xff\xfe"])
def test_damaged_facts(path, content):
    (path / "model.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(StageFailed, match="is damaged"):
        ModelFolder(path)


@pytest.mark.parametrize("name", ["float.onnx", "qdq_s8.onnx", "qdq_u8.onnx", "quantization.json"])
def test_a_missing_file(path, name):
    (path / name).unlink()
    with pytest.raises(StageFailed, match=f"'{name}' is missing from the model folder"):
        ModelFolder(path)


def test_a_network_that_stayed_in_float(path):
    facts = json.loads((path / "model.json").read_text())
    (path / "model.json").write_text(json.dumps({**facts, "precisions": ["fp32"]}))
    folder = ModelFolder(path)
    assert not folder.has_int8
    for ask in (lambda: folder.qdq("s8"), folder.scales):
        with pytest.raises(StageFailed, match="this network stayed in float: there is no int8 file"):
            ask()


def test_an_unknown_flavour(path):
    with pytest.raises(StageFailed, match="unknown flavour 'int4'"):
        ModelFolder(path).qdq("int4")
