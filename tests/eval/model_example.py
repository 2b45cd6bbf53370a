"""A small untrained network as a checkpoint and as a bundle that runs here, for tests of what opens them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from eval.bundle import FACTS, MANIFEST, BundleArtifact, BundleFacts, Golden, Network, Opening, Size
from models.arch import build, load_arch
from models.checkpoint import save
from models.export import export_onnx
from pipeline.store import hash_file


def small_student() -> nn.Module:
    """The smallest student, with its last layer stirred so that it changes images visibly, in eval mode."""
    torch.manual_seed(0)
    module = build("student", load_arch("student").small).eval()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn_like(p) * 0.02)
    return module


def write_checkpoint(path: Path) -> nn.Module:
    """Write it as a checkpoint and return it."""
    module = small_student()
    save(path, module, "student")
    return module


def write_bundle(path: Path, module: nn.Module, fixed: tuple[int, int] = (0, 0)) -> None:
    """Write a bundle of one ONNX Runtime artifact; ``fixed`` (height, width) makes it take that size only."""
    for folder in ("artifacts", "reference"):
        (path / folder).mkdir(parents=True)
    (path / "bench.py").write_text("print('bench')\n")
    model = path / "artifacts" / "model.onnx"
    export_onnx(module, model, height=fixed[0] or None, width=fixed[1] or None)
    export_onnx(module, path / "reference" / "model.onnx")
    facts = {"backend": "compile.onnxruntime", "precision": "fp32", "height": fixed[0], "width": fixed[1]}
    (path / FACTS).write_text(_facts(module, model, facts).model_dump_json(by_alias=True))
    files = sorted(p for p in path.rglob("*") if p.is_file())
    (path / MANIFEST).write_text("".join(f"{hash_file(p)}  {p.relative_to(path).as_posix()}\n" for p in files))


def _facts(module: nn.Module, model: Path, facts: dict[str, Any]) -> BundleFacts:
    artifact = BundleArtifact(
        name="onnxruntime-fp32",
        backend="onnxruntime",
        precision="fp32",
        runs_on="cpu",
        role="host",
        path="artifacts/model.onnx",
        sha256=hash_file(model),
        bytes=model.stat().st_size,
        height=facts["height"],
        width=facts["width"],
        facts=facts,
        float_precision="fp32",
        reference="reference/model.onnx",
        evaluation=Opening(path="artifacts/model.onnx", facts=facts),
        stands_in=False,
        golden=Golden(input="golden/input.npy", expected="golden/expected.npy", psnr_at_least=60),
    )
    return BundleFacts(
        target="host",
        title="This machine",
        network=Network(input="lq", output="restored", size_multiple=int(module.size_multiple)),
        frame=Size(width=640, height=480),
        latency_budget_ms=100,
        chosen=artifact.name,
        host=artifact.name,
        artifacts=(artifact,),
        lineage={},
    )


def photo(height: int, width: int) -> np.ndarray:
    """A photograph as uint8 RGB [height, width, 3], at most 300 x 451."""
    from skimage import data

    return np.ascontiguousarray(data.chelsea()[:height, :width])
