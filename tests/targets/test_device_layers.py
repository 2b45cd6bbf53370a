"""The runtime's own profile of an artifact, from the device's script into the run's report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.boards.bundle_example import NAME, small_bundle
from tests.boards.run_example import make_run
from tests.pipeline.conftest import cli
from tests.targets.device_path import FOLDER

from board import layers  # isort: skip

__all__ = ["FOLDER", "cli"]


def test_onnx_runtime_tells_the_layers_apart_in_order(tmp_path: Path):
    import onnxruntime

    made = small_bundle(tmp_path / "bundle", "host")
    path = str(made / f"artifacts/{NAME}.onnx")
    x = np.zeros((1, 3, 64, 64), np.float32)
    found = layers.profiled(lambda options: onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]), "lq", x)
    assert found["runs"] == layers.RUNS
    assert len(found["rows"]) >= 1
    assert all(row["ms"] > 0 for row in found["rows"])


def event(name: str, us: int) -> dict[str, object]:
    return {"cat": "Node", "name": f"{name}_kernel_time", "dur": us}


def test_the_first_run_does_not_count_and_the_middle_one_does():
    runs = [event(name, us) for run in range(layers.RUNS + 1) for name, us in (("a", 9000 if run == 0 else run * 1000), ("b", 2000))]
    other = [{"cat": "Session", "name": "model_run", "dur": 5}, {"cat": "Node", "name": "a_fence_before", "dur": 7}]
    assert layers.parse(json.dumps([*other, *runs])) == {"runs": 5, "rows": [{"name": "a", "ms": 3.0}, {"name": "b", "ms": 2.0}]}
    for text in ("", "{}", "[]", json.dumps(runs[1:])):
        assert layers.parse(text) == {}


@pytest.mark.slow
def test_a_benchmarks_layers_become_the_estimates_error_by_kind(tmp_path: Path, cli: Callable[..., tuple[int, str, str]]):
    import onnx

    from compile.bundle import write_manifest

    run = make_run(tmp_path / "ws/runs/r", target="host")
    for path in (run / "bundle/reference/fp32.onnx", run / f"bundle/artifacts/{NAME}.onnx"):
        model = onnx.load(str(path))
        for node in model.graph.node:
            node.name = node.output[0]  # as exporters name them, nearly
        onnx.save(model, str(path))
    write_manifest(run / "bundle")
    out = tmp_path / "result.json"
    code, _, err = cli("bench", run, "--on", "local", "--seconds", 0.3, "--out", out, "--ingest", run)
    assert json.loads(out.read_text())["layers"]["rows"]
    if code == 4:
        pytest.skip(f"this machine is too busy for a steady timing: {err}")
    stage = json.loads((run / "report.json").read_text())["stages"][1]
    found = {m["name"]: m for m in stage["measurements"]}
    assert found["estimate_error_narrow"]["conditions"]["measured"] > 0
