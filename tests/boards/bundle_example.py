"""A small bundle: one convolution for ONNX Runtime, with the device scripts as they ship."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

import targets.device
from compile.bundle import write_manifest
from eval.bundle import Bundle, BundleArtifact, BundleFacts
from pipeline.store import hash_file

SIDE = 32
NAME = "onnxruntime-fp32"


def small_network(path: Path, pooled: bool = False) -> None:
    """x + conv(x), float32 [1, 3, H, W], which sees 12 pixels far; pooled: x + conv(x) * mean of x."""
    rng = np.random.default_rng(0)
    weight = helper.make_tensor("w", TensorProto.FLOAT, (3, 3, 3, 3), (rng.standard_normal(81) * 0.05).astype(np.float32))
    shape = (1, 3, "h", "w")
    nodes = [helper.make_node("Conv", ["lq", "w"], ["c"], pads=(12,) * 4, dilations=(12, 12))]
    if pooled:
        nodes += [helper.make_node("GlobalAveragePool", ["lq"], ["mean"]), helper.make_node("Mul", ["c", "mean"], ["gated"])]
    nodes.append(helper.make_node("Add", ["lq", nodes[-1].output[0]], ["restored"]))
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("lq", "restored")]
    model = helper.make_model(helper.make_graph(nodes, "small", ends[:1], ends[1:], [weight]), opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, path)


def small_bundle(
    path: Path, /, target: str = "toy-board", extra: dict[str, bytes] | None = None, pooled: bool = False, **changes: object
) -> Path:
    """Write a bundle.

    Args:
        path: its folder.
        target: name of the target it is for.
        extra: further files by name.
        pooled: its network pools over the whole image.
        changes: fields of its artifact that differ.

    """
    import onnxruntime

    for folder in ("artifacts", "reference", "golden"):
        (path / folder).mkdir(parents=True)
    small_network(path / f"artifacts/{NAME}.onnx", pooled)
    shutil.copy(path / f"artifacts/{NAME}.onnx", path / "reference/fp32.onnx")
    lq = np.random.default_rng(1).integers(0, 256, (1, 3, SIDE, SIDE), dtype=np.uint8)
    np.save(path / "golden/input.npy", lq)
    session = onnxruntime.InferenceSession(path / f"artifacts/{NAME}.onnx", providers=["CPUExecutionProvider"])
    np.save(path / f"golden/{NAME}.npy", session.run(None, {"lq": lq.astype(np.float32) / np.float32(255)})[0])
    _write_scripts(path)
    for name, content in (extra or {}).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    facts = BundleFacts.model_validate(_facts(path, target, changes))
    (path / "bundle.json").write_text(json.dumps(facts.model_dump(mode="json", by_alias=True), indent=1))
    write_manifest(path)
    Bundle.open(path)
    return path


def _write_scripts(path: Path) -> None:
    """All that ships in targets/device; a package of it as a folder."""
    device = Path(targets.device.__file__).parent
    shutil.copytree(device, path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    (path / "__init__.py").unlink()


def _facts(path: Path, target: str, changes: dict[str, object]) -> dict[str, object]:
    opening = {"path": f"artifacts/{NAME}.onnx", "facts": {"backend": "compile.onnxruntime", "precision": "fp32", "height": 0, "width": 0}}
    artifact = {
        **{"name": NAME, "backend": "onnxruntime", "precision": "fp32", "runs_on": "cpu", "role": "target"},
        **{"path": opening["path"], "sha256": hash_file(path / str(opening["path"]))},
        **{"bytes": (path / str(opening["path"])).stat().st_size, "height": 0, "width": 0},
        **{"facts": opening["facts"], "float_precision": "fp32", "reference": "reference/fp32.onnx"},
        **{"evaluation": opening, "stands_in": False},
        **({"tile": (160, 160), "halo": 4} if "tile" in BundleArtifact.model_fields else {}),
        "golden": {"input": "golden/input.npy", "expected": f"golden/{NAME}.npy", "psnr_at_least": 60.0},
    }
    return {
        **{"target": target, "title": "A board for tests", "network": {"input": "lq", "output": "restored", "size_multiple": 4}},
        **{"frame": {"width": 640, "height": 480}, "latency_budget_ms": 33.3, "chosen": NAME, "host": NAME},
        **{"artifacts": [{**artifact, **changes}], "lineage": {"model_sha256": "0" * 64}},
    }
