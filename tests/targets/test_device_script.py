from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import targets.device

FOLDER = Path(targets.device.__file__).parent
SCRIPTS = [FOLDER / "bench.py", FOLDER / "runtimes.py"]
sys.path.insert(0, str(FOLDER))  # on the device, the files lie side by side in one folder

import bench  # noqa: E402
import runtimes  # noqa: E402


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_the_device_script_keeps_to_python_3_8(script: Path):
    vermin = Path(sys.executable).parent / "vermin"
    done = subprocess.run([vermin, "-t=3.8-", "--violations", "--no-tips", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_device_script_imports_nothing_of_ours():
    nodes = [n for script in SCRIPTS for n in ast.walk(ast.parse(script.read_text(), feature_version=(3, 8)))]
    names = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module for n in nodes if isinstance(n, ast.ImportFrom)}
    roots = {n.partition(".")[0] for n in names}
    runs = {"onnxruntime", "tvm", "openvino", "ai_edge_litert", "tflite_runtime"}
    assert roots - set(sys.stdlib_module_names) == {"numpy", "runtimes"} | runs


def test_statistics_by_hand():
    found = bench.statistics([3.0, 1.0, 2.0, 4.0, 100.0])
    assert (found["p50_ms"], found["count"]) == (3.0, 5)
    assert found["p90_ms"] == pytest.approx(61.6)
    assert found["cv"] == pytest.approx(1.4826 / 3)  # deviations 0, 2, 1, 1, 97: their median is 1
    assert found["times_ms"] == [3.0, 1.0, 2.0, 4.0, 100.0]


def test_measuring_stops_at_least_time_and_least_count():
    class Counted(runtimes.Called):
        calls = 0

        def run(self, x: object) -> None:
            self.calls += 1

    runtime = Counted()
    assert len(runtime.measure(None, 0.0, 7)) == 7
    assert runtime.calls == 10  # three to warm up
    assert sum(runtime.measure(None, 0.01, 1)) >= 10


def test_host_facts_say_nothing_personal():
    facts = bench.host_facts()
    assert {"machine", "system", "cores", "python", "numpy"} <= set(facts)
    assert "node" not in facts
