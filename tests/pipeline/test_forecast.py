"""What was predicted beside what was measured: kept once, shown in the report, by kind of operator where the layers were told apart."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.target import Target
from pipeline.yamlfile import load_yaml, validate
from targets.estimator import estimate
from targets.predictions import Prediction, by_layer, read, summary
from tests.boards.bundle_example import NAME, SIDE
from tests.boards.run_example import make_result, make_run
from tests.pipeline.test_ingest import recorded

Cli = Callable[..., tuple[int, str, str]]

LAYERS = {"runs": 10, "rows": [{"name": "input copy", "ms": 0.01}, {"name": "Conv_0_nchwc", "ms": 0.3}, {"name": "Add_1", "ms": 0.1}]}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run in a workspace, whose network's nodes have the names that the profile says."""
    made = make_run(tmp_path / "ws/runs/20260301-120003-toy-board")
    (made / "target.resolved.yaml").write_text((made / "board.yaml").read_text())
    _name_nodes(made / "bundle")
    return made


def _name_nodes(bundle: Path) -> None:
    import onnx

    from compile.bundle import write_manifest

    model = onnx.load(str(bundle / "reference/fp32.onnx"))
    for n, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{n}"
    onnx.save(model, str(bundle / "reference/fp32.onnx"))
    write_manifest(bundle)


def result_file(folder: Path, run: Path, name: str = "result.json", **changes: Any) -> Path:
    path = folder / name
    path.write_text(json.dumps(make_result(run, **changes)))
    return path


def kept(run: Path) -> list[Prediction]:
    return read(run.parent.parent / "calibration/predictions.jsonl")


def errors(run: Path, report: str = "report.json") -> dict[str, dict[str, Any]]:
    stage = json.loads((run / report).read_text())["stages"][1]
    return {m["name"].removeprefix("estimate_error_"): m for m in stage["measurements"] if m["name"].startswith("estimate_error_")}


def test_the_network_alone_is_predicted_at_the_size_that_was_timed_and_kept_once(run: Path, cli: Cli, tmp_path: Path):
    path = result_file(tmp_path, run)
    assert cli("ingest", run, path)[0] == 0
    assert cli("ingest", run, path)[0] == 0
    assert cli("ingest", run, result_file(tmp_path, run, "other.json", p50=26.0))[0] == 0
    found = kept(run)
    assert len(found) == 2
    assert len({p.result for p in found}) == 2
    one = found[0]
    from eval.bundle import Bundle

    target = validate(Target, load_yaml(run / "board.yaml"), "")
    made = estimate(Bundle.open(run / "bundle").layers(NAME, SIDE, SIDE), target.rates["cpu"], backend="onnxruntime")
    assert (one.predicted_ms, one.measured_ms) == (pytest.approx(made.ms), pytest.approx(0.4))
    assert (one.target, one.artifact, one.frame, one.evidence) == ("toy-board", NAME, f"{SIDE}x{SIDE}", "target")
    assert one.kinds == ()
    error = errors(run)["network"]
    assert error["value"] == pytest.approx(100 * (made.ms / 0.4 - 1))
    assert (error["unit"], error["evidence"], error["samples"]) == ("%", "target", 60)


def test_by_kind_of_operator_where_the_board_told_its_layers_apart(run: Path, cli: Cli, tmp_path: Path):
    assert cli("ingest", run, result_file(tmp_path, run, layers=LAYERS))[0] == 0
    (one,) = kept(run)
    assert {kind: measured for kind, _, measured in one.kinds} == {"narrow": 0.3, "add": 0.1, "frame": 0.01}
    found = errors(run)
    assert found["narrow"]["conditions"]["measured"] == 0.3
    assert found["narrow"]["value"] == pytest.approx(100 * (found["narrow"]["conditions"]["predicted"] / 0.3 - 1))
    assert found["narrow"]["samples"] == 10
    text = (run / "report.md").read_text()
    assert "estimate error narrow" in text
    assert "estimate error network" in text
    code, out, _ = cli("report", run, "--format", "md")
    assert (code, "estimate error narrow" in out) == (0, True)


def test_a_replay_shows_the_error_and_keeps_nothing(run: Path, cli: Cli, tmp_path: Path):
    folder = recorded(tmp_path / "old", run)
    rows = [{"name": "Conv_0 + Add_1", "timeMs": 4.0, "averageMs": 0.4, "medianMs": 0.4, "percentage": 100.0}]
    (folder / "profile.json").write_text(json.dumps([{"count": 10}, *rows]))
    code, _, err = cli("ingest", run, "--replay", folder)
    assert code in {0, 4}, err  # a tile of the frame was recorded: the gate on whole frames is unproven
    found = errors(run, "report.replayed.json")
    assert found["narrow"]["conditions"]["measured"] == 0.4
    assert all(m["conditions"]["replayed"] for m in found.values())
    assert kept(run) == []
    (folder / "profile.json").write_text('[{"name": "Conv_0"}]')
    code, _, err = cli("ingest", run, "--replay", folder)
    assert (code, "is not what trtexec --exportProfile writes" in err) == (2, True)


def test_layers_that_are_none_are_refused(run: Path, cli: Cli, tmp_path: Path):
    bad = {"runs": 10, "rows": [{"name": "Conv_0", "ms": -1.0}]}
    code, _, err = cli("ingest", run, result_file(tmp_path, run, layers=bad))
    assert (code, "is not the result of a benchmark (layers.rows.0.ms:" in err) == (2, True)


def test_two_ingests_at_once_lose_nothing(run: Path, tmp_path: Path):
    """Both stand before the report at the same moment: a lock that they do not know of holds them there."""
    results = [result_file(tmp_path, run, f"{n}.json", p50=25.0 + n) for n in range(2)]
    with (run / ".ingest.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        commands = ([sys.executable, "-m", "pipeline", "ingest", str(run), str(path)] for path in results)
        both = [subprocess.Popen(c, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for c in commands]
        waiting = [""] * 2

        def listen(n: int) -> None:
            waiting[n] = both[n].stderr.readline()  # type: ignore[union-attr]

        threads = [threading.Thread(target=listen, args=(n,)) for n in range(2)]
        for t in threads:
            t.start()
        for t in threads:
            t.join(60)
        assert waiting == [f"another ingest writes the report of {run.name}: waiting for it\n"] * 2
        assert not (run / "report.1.json").exists()
    assert [p.wait(60) for p in both] == [0, 0], [p.stderr.read() for p in both]  # type: ignore[union-attr]
    report = json.loads((run / "report.json").read_text())
    assert report["version"] == 3
    assert {(run / e["file"]).read_bytes() for e in report["ingested"]} == {path.read_bytes() for path in results}
    assert json.loads((run / "report.2.json").read_text())["version"] == 2
    assert len([e for e in (run / "events.jsonl").read_text().splitlines() if '"ingested"' in e]) == 2
    assert len(kept(run)) == 2


def test_rows_of_a_profile_count_to_the_layer_that_they_name():
    names = ["Conv_1", "Conv_12", "Relu_2", "/enc/0/Conv"]
    rows = [
        ("Reformatting CopyNode for Input Tensor 0 to Conv_1", 0.5),
        ("Conv_1 + PWN(Relu_2)", 1.0),
        ("unnamed", 0.25),
        ("w.weight + QuantizeLinear_3 + Conv_12", 2.0),
        ("/enc/0/Conv_quant", 3.0),
    ]
    assert by_layer(rows, names) == {"Conv_1": 1.75, "Conv_12": 2.0, "/enc/0/Conv": 3.0}
    assert by_layer([("x", 1.0)], names) == by_layer([("x", 1.0)], []) == {"frame": 1.0}


def test_a_summary_says_how_far_the_estimates_were_off():
    def one(predicted: float, **more: Any) -> Prediction:
        return Prediction("t", "a", "onnxruntime", "int8", "32x32", "calibrated", predicted, 10.0, "target", **more)

    lines = list(summary([one(9.0, kinds=(("dense", 3.0, 4.0), ("add", 1.0, 0.0))), one(12.0, kinds=(("dense", 5.0, 4.0),))]))
    assert lines == [
        "onnxruntime int8 (calibrated): 2 measured, error median 15%, worst 20%, last 12.00 for 10.00 ms",
        "  dense: 8.00 for 8.00 ms, +0%",
        "  add: 1.00 for 0.00 ms, not in the profile",
    ]
