from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from eval.bundle import SCHEMA, Bundle, artifact_layers, is_bundle, verify_manifest
from pipeline.errors import UsageError
from pipeline.store import hash_file


def write_network(path: Path) -> None:
    """One 1x1 convolution, identity weights."""
    sides = ["h", "w"]
    weight = numpy_helper.from_array(np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1), "weight")
    conv = helper.make_node("Conv", ["lq", "weight"], ["restored"], "conv")
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, *sides]) for n in ("lq", "restored")]
    graph = helper.make_graph([conv], "g", ends[:1], ends[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def manifest(path: Path) -> None:
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.name != "MANIFEST.sha256")
    (path / "MANIFEST.sha256").write_text("".join(f"{hash_file(p)}  {p.relative_to(path).as_posix()}\n" for p in files))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "bundle"
    (path / "artifacts").mkdir(parents=True)
    write_network(path / "artifacts/net.onnx")
    (path / "bench.py").write_text("")
    facts = {"backend": "compile.onnxruntime", "height": 0, "width": 0}
    artifact = {
        "name": "net",
        "backend": "onnxruntime",
        "precision": "fp32",
        "runs_on": "cpu",
        "role": "target",
        "path": "artifacts/net.onnx",
        "sha256": "0" * 64,
        "bytes": 1,
        "height": 0,
        "width": 0,
        "facts": facts,
        "float_precision": "fp16",
        "reference": "artifacts/net.onnx",
        "evaluation": {"path": "artifacts/net.onnx", "facts": facts},
        "stands_in": False,
        "golden": {"input": "x", "expected": "y", "psnr_at_least": 60},
    }
    content = {
        "schema": SCHEMA,
        "target": "board",
        "title": "A board",
        "network": {"input": "lq", "output": "restored", "size_multiple": 8},
        "frame": {"width": 64, "height": 32},
        "latency_budget_ms": 5,
        "chosen": "net",
        "host": "net",
        "artifacts": [artifact],
        "lineage": {},
    }
    (path / "bundle.json").write_text(json.dumps(content))
    manifest(path)
    return path


def test_a_bundle_opens_runs_and_tells_its_layers(folder: Path):
    assert is_bundle(folder)
    bundle = Bundle.open(folder)
    lq = np.random.default_rng(0).random((1, 3, 8, 16), np.float32)
    with bundle.session() as session:
        assert np.allclose(session.run(lq), lq)
    (layer,) = bundle.layers("net", 32, 64)
    assert (layer.op, layer.macs, layer.precision) == ("Conv", 32 * 64 * 9, "fp16")
    assert artifact_layers(folder / "artifacts/net.onnx", 32, 64, "fp32")[0].precision == "fp32"


def test_an_unknown_artifact_is_a_usage_error(folder: Path):
    with pytest.raises(UsageError, match=r"has no artifact 'nett'\nhint: did you mean 'net'"):
        Bundle.open(folder).artifact("nett")


def test_a_folder_that_is_no_bundle(tmp_path: Path):
    assert not is_bundle(tmp_path)
    with pytest.raises(UsageError, match="is not a bundle: it has no readable MANIFEST"):
        Bundle.open(tmp_path)
    with pytest.raises(UsageError, match=r"is not a bundle: it has no readable bundle\.json"):
        Bundle.open(tmp_path, verify=False)


def test_a_changed_file_is_found(folder: Path):
    with (folder / "artifacts/net.onnx").open("ab") as f:
        f.write(b"!")
    with pytest.raises(UsageError, match=r"'artifacts/net.onnx' is missing or differs"):
        Bundle.open(folder)
    assert Bundle.open(folder, verify=False).facts.chosen == "net"


@pytest.mark.parametrize("line", ["", "abc", f"{'0' * 64}  ../outside", f"{'0' * 64}  gone"])
def test_a_bad_manifest_line_is_refused(folder: Path, line: str):
    (folder.parent / "outside").write_text("x")
    with (folder / "MANIFEST.sha256").open("a") as f:
        f.write(line + "\n")
    with pytest.raises(UsageError, match="is missing or differs"):
        verify_manifest(folder)


def test_a_manifest_outside_the_bundle_is_refused_even_with_the_right_hash(folder: Path):
    outside = folder.parent / "outside"
    outside.write_text("x")
    with (folder / "MANIFEST.sha256").open("a") as f:
        f.write(f"{hash_file(outside)}  ../outside\n")
    with pytest.raises(UsageError, match=r"'../outside' is missing or differs"):
        verify_manifest(folder)


def test_facts_that_the_manifest_does_not_list_are_refused(folder: Path):
    lines = [x for x in (folder / "MANIFEST.sha256").read_text().splitlines(keepends=True) if "bundle.json" not in x]
    (folder / "MANIFEST.sha256").write_text("".join(lines))
    with pytest.raises(UsageError, match=r"does not list bundle.json"):
        verify_manifest(folder)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"schema": SCHEMA + 1}, "has schema"),
        ({"schema": SCHEMA - 1, "no_longer_there": 1}, f"has schema {SCHEMA - 1}, this version reads {SCHEMA}"),
        ({"extra": 1}, "is damaged"),
        ({"chosen": None}, "is damaged"),
    ],
)
def test_facts_of_another_shape_are_refused(folder: Path, change: dict[str, object], text: str):
    content = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(UsageError, match=text):
        Bundle.open(folder, verify=False)
