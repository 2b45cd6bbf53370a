"""ingest: what is let in, what is refused and with which exit code, and what becomes of the report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.machine import machine_facts
from tests.boards.bundle_example import NAME, SIDE
from tests.boards.run_example import make_result, make_run, measurement, timing

Cli = Callable[..., tuple[int, str, str]]
Ingest = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


@pytest.fixture
def ingest(run: Path, cli: Cli, tmp_path: Path) -> Ingest:
    def call(result: dict[str, Any], *more: object) -> tuple[int, str, str]:
        path = tmp_path / "result.json"
        path.write_text(json.dumps(result))
        return cli("ingest", run, path, "--target", run / "board.yaml", *more)

    return call


def report_of(run: Path, name: str = "report.json") -> dict[str, Any]:
    return json.loads((run / name).read_text())


def rows(report: dict[str, Any], stage: str = "benchmark") -> dict[tuple[str, str], dict[str, Any]]:
    found = next(s for s in report["stages"] if s["id"] == stage)["measurements"]
    return {(m["name"], m["evidence"]): m for m in found}


def test_a_good_result_becomes_evidence_target(run: Path, ingest: Ingest):
    code, out, err = ingest(make_result(run))
    assert (code, err) == (0, "")
    assert "ingested as version 2 of the report" in out
    report = report_of(run)
    found = rows(report)
    assert found["latency_p50", "target"]["value"] == pytest.approx(25.0)
    assert found["latency_p50", "target"]["samples"] == 60
    conditions = found["latency_p50", "target"]["conditions"]
    assert conditions["frame"] == "640x480"
    assert conditions["scope"] == "decoded file to stitched output"
    assert (conditions["board"], conditions["power_mode"], conditions["threads"]) == ("Toy Board rev 2", "MAXN", 4)
    assert found["latency_p50", "estimated"]["value"] == 20.0
    assert found["tile_latency_p50", "target"]["conditions"]["frame"] == "32x32"
    assert (found["energy", "target"]["value"], found["energy", "target"]["unit"]) == (120.0, "mJ")
    gate = report["stages"][1]["gates"][0]
    assert (gate["verdict"], gate["evidence"]) == ("passed", "target")
    assert gate["value"] == pytest.approx(25.0 * 1.016, rel=1e-3)
    assert report["stages"][1]["notes"] == [f"{NAME} was measured on Toy Board rev 2, 2026-03-02T10:00:00Z"]


def test_the_prediction_stays_beside_the_measurement_with_its_error(run: Path, ingest: Ingest):
    ingest(make_result(run))
    error = rows(report_of(run))["estimate_error_latency_p50", "target"]
    assert (error["unit"], error["samples"]) == ("%", 60)
    assert error["value"] == pytest.approx(-20.0)
    assert (error["conditions"]["predicted"], error["conditions"]["measured"]) == (20.0, pytest.approx(25.0))
    text = (run / "report.md").read_text()
    assert f"estimate error latency p50 {error['value']:.1f} %".replace("-", "−") in text
    assert "estimated for toy-board" in text
    assert "measured on toy-board" in text
    assert "measured on toy-board" in (run / "report.html").read_text()


def test_every_earlier_version_stays_as_it_was(run: Path, ingest: Ingest):
    before = {form: (run / f"report.{form}").read_bytes() for form in ("json", "md", "html")}
    ingest(make_result(run))
    second = (run / "report.json").read_bytes()
    ingest(make_result(run, 30.0))
    assert {form: (run / f"report.1.{form}").read_bytes() for form in before} == before
    assert (run / "report.2.json").read_bytes() == second
    report = report_of(run)
    assert report["version"] == 3
    assert [e["artifact"] for e in report["ingested"]] == [NAME, NAME]
    assert all(report_of(run, e["file"])["bundle_sha256"] for e in report["ingested"])
    latencies = [m for m in report["stages"][1]["measurements"] if m["name"] == "latency_p50"]
    assert [(m["evidence"], pytest.approx(m["value"])) for m in latencies] == [("estimated", 20.0), ("target", 30.0)]


def test_a_slow_board_fails_the_gate_and_the_report_says_so(run: Path, ingest: Ingest):
    code, _, err = ingest(make_result(run, 40.0))
    assert code == 3
    assert err.startswith("stage benchmark: gate 'latency_p90 at_most 33.3 ms' is not met, it is 40.6")
    assert report_of(run)["verdict"] == "failed"


def test_it_proves_what_required_evidence_of_the_target(tmp_path: Path, cli: Cli):
    run = make_run(tmp_path / "run", required="target")
    assert report_of(run)["verdict"] == "unproven"
    path = tmp_path / "result.json"
    path.write_text(json.dumps(make_result(run)))
    assert cli("ingest", run, path, "--target", run / "board.yaml")[0] == 0
    assert report_of(run)["verdict"] == "passed"


def test_a_result_without_whole_frames_leaves_required_evidence_unproven(tmp_path: Path, cli: Cli):
    run = make_run(tmp_path / "run", required="target")
    path = tmp_path / "result.json"
    path.write_text(json.dumps(make_result(run, frame=None)))
    code, _, err = cli("ingest", run, path, "--target", run / "board.yaml")
    assert code == 4
    assert "no 'latency_p90' with evidence 'target'" in err


def test_a_kernel_that_takes_the_whole_frame_is_the_latency(run: Path, ingest: Ingest):
    result = make_result(run, protocol={"input": [480, 640], "frame": [480, 640]})
    ingest(result)
    found = rows(report_of(run))
    assert found["latency_p50", "target"]["value"] == pytest.approx(0.4)
    assert found["latency_p50", "target"]["conditions"]["scope"] == "network"
    assert found["frame_latency_p50", "target"]["value"] == pytest.approx(25.0)


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "another bundle": ({"bundle_sha256": "f" * 64}, 2, "is of bundle ffffffffffff, the run's is"),
    "another board": ({"device": {"model": "Raspberry Pi 5"}}, 2, "comes from Raspberry Pi 5, which is not toy-board: its model is"),
    "a board that says nothing": ({"device": {}}, 2, "its model is unknown"),
    "an unknown artifact": ({"artifact": "tvm-int9"}, 2, "has no artifact 'tvm-int9'"),
    "a wrong output": ({"golden": {"psnr": 31.0}}, 3, "is 31.0 dB from the golden one, at least 60 dB"),
    "an output of NaN": ({"golden": {"psnr": float("nan")}}, 3, "is nan dB from the golden one"),
    "not verified": ({"verified": False}, 3, "from the golden one"),
    "unstable": ({"stable": False, "unstable_reason": "throttled at 88 C"}, 4, "the timing was unstable (throttled at 88 C)"),
    "no timing": ({"kernel": None, "frame": None}, 4, "holds no timing"),
    "emulated by the transport": (
        {"transport": {"scheme": "emulate", "name": "emulate:cortex-a76", "function_only": True}},
        4,
        "comes from emulate:cortex-a76, which emulates the CPU",
    ),
    "emulated behind a shell": ({"board": {"machine": "x86_64"}}, 4, "the board's shell runs on x86_64 and the benchmark on aarch64"),
    "another schema": ({"schema": 1}, 2, "has schema 1, this version reads 2"),
    "no device": ({"device": None}, 2, "is not the result of a benchmark (device:"),
    "statistics by hand": (
        {"frame": {**timing(40.0), "p90_ms": 12.0}},
        2,
        "frame.p90_ms is 12 and its times give",
    ),
    "times taken out": ({"frame": {**timing(40.0), "count": 61}}, 2, "frame.count is 61 and there are 60 times"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_proves_nothing_is_refused_and_changes_nothing(run: Path, ingest: Ingest, name: str):
    changes, want, words = REFUSED[name]
    before = {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}
    code, _, err = ingest(make_result(run, **changes))
    assert code == want, err
    assert words in err
    assert err.count("\n") == 2
    assert "hint: " in err
    assert {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()} == before


def test_numbers_of_this_machine_never_count_for_a_board(run: Path, ingest: Ingest):
    facts = machine_facts()
    code, _, err = ingest(make_result(run, device={"machine": facts["arch"], "cpu": facts["cpu"]}, transport={"scheme": "local"}))
    assert code == 2
    assert "which is not toy-board" in err


def test_the_host_target_takes_this_machine_and_no_other(tmp_path: Path, cli: Cli):
    run = make_run(tmp_path / "run", target="host")
    facts, path = machine_facts(), tmp_path / "result.json"
    own = {"protocol": {"input": [32, 32], "frame": [720, 1280]}}
    path.write_text(json.dumps(make_result(run, device={"machine": facts["arch"], "cpu": "Cray-1"}, **own)))
    code, _, err = cli("ingest", run, path)
    assert (code, "its cpu is 'Cray-1'" in err) == (2, True)
    path.write_text(json.dumps(make_result(run, device={"machine": facts["arch"], "cpu": facts["cpu"]}, **own)))
    assert cli("ingest", run, path)[0] == 0


def test_a_damaged_bundle_in_the_run_is_refused(run: Path, ingest: Ingest):
    result = make_result(run)
    (run / "bundle/bench.py").write_text("# other")
    code, _, err = ingest(result)
    assert (code, "'bench.py' is missing or differs" in err) == (2, True)


def test_an_artifact_that_was_not_chosen_is_kept_with_its_candidate(run: Path, cli: Cli, tmp_path: Path):
    facts = json.loads((run / "bundle/bundle.json").read_text())
    facts["artifacts"].append({**facts["artifacts"][0], "name": "other-fp32"})
    (run / "bundle/bundle.json").write_text(json.dumps(facts))
    from compile.bundle import write_manifest

    write_manifest(run / "bundle")
    path = tmp_path / "result.json"
    path.write_text(json.dumps(make_result(run, 90.0, artifact="other-fp32")))
    assert cli("ingest", run, path, "--target", run / "board.yaml")[0] == 0
    report = report_of(run)
    candidate = next(c for c in report["stages"][0]["candidates"] if c["name"] == "other-fp32")
    assert {m["name"] for m in candidate["measurements"]} >= {"latency_p50", "latency_p90"}
    assert ("latency_p50", "target") not in rows(report)
    assert report["verdict"] == "passed"


def test_the_target_is_asked_for_when_it_is_the_user_s_own(run: Path, cli: Cli, tmp_path: Path):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(make_result(run)))
    code, _, err = cli("ingest", run, path)
    assert (code, err) == (2, "run run: was for 'toy-board', which is no shipped target\nhint: name its file: --target board.yaml\n")
    code, _, err = cli("ingest", run, path, "--target", "host")
    assert (code, err.splitlines()[0]) == (2, "--target host: is 'host', the run was for 'toy-board'")
    (run / "target.resolved.yaml").write_text((run / "board.yaml").read_text())
    assert cli("ingest", run, path)[0] == 0


def test_json_is_the_new_report(run: Path, ingest: Ingest):
    code, out, _ = ingest(make_result(run), "--json")
    assert code == 0
    assert json.loads(out) == report_of(run)


def recorded(folder: Path, run: Path, p50: float = 25.0, model: str = "Toy Board rev 2", error: float = 0.0) -> Path:
    """Synthetic exports in trtexec's form."""
    folder.mkdir()
    want = np.load(run / f"bundle/golden/{NAME}.npy").astype(np.float64) + error
    (folder / "device.json").write_text(json.dumps({"model": model, "recorded": "2026-03-01"}))
    (folder / "times.json").write_text(json.dumps([{"latencyMs": p50 * (1 + 0.001 * (k % 7)), "computeMs": p50} for k in range(50)]))
    (folder / "output.json").write_text(
        json.dumps([{"name": "restored", "dimensions": f"1x3x{SIDE}x{SIDE}", "values": want.ravel().tolist()}])
    )
    return folder


def test_a_replay_says_so_wherever_a_number_appears_and_leaves_the_report_alone(run: Path, cli: Cli, tmp_path: Path, monkeypatch):
    small = (run / "board.yaml").read_text().replace("{width: 640, height: 480}", f"{{width: {SIDE}, height: {SIDE}}}")
    (run / "board.yaml").write_text(small)
    report = report_of(run) | {"frame": f"{SIDE}x{SIDE}"}
    report["stages"][1]["measurements"] = [measurement("latency_p50", 20.0, "ms", "estimated", artifact=NAME)]
    (run / "report.json").write_text(json.dumps(report))
    before = (run / "report.json").read_bytes()
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = cli("ingest", run, "--replay", recorded(tmp_path / "old", run), "--target", run / "board.yaml")
    assert (code, err) == (0, "")
    assert (run / "report.json").read_bytes() == before
    assert list(run.glob("report.2*")) == []
    replayed = report_of(run, "report.replayed.json")
    assert replayed["replayed"] is True
    found = [m for m in replayed["stages"][1]["measurements"] if m["evidence"] == "target"]
    assert found and all(m["conditions"]["replayed"] for m in found)
    for name in ("report.replayed.md", "report.replayed.html"):
        text = (run / name).read_text()
        assert text.count("measured on toy-board") == text.count("replayed, measured on toy-board") > 2
    assert out.count("replayed") > 2
    assert "measured on toy-board" not in out.replace("replayed, measured on toy-board", "")


def test_a_replay_is_held_to_the_same_rules(run: Path, cli: Cli, tmp_path: Path):
    def judge(name: str, **how: Any) -> tuple[int, str]:
        code, _, err = cli("ingest", run, "--replay", recorded(tmp_path / name, run, **how), "--target", run / "board.yaml")
        return code, err

    code, err = judge("elsewhere", model="Raspberry Pi 4")
    assert (code, "comes from Raspberry Pi 4" in err) == (2, True)
    code, err = judge("wrong", error=0.05)
    assert (code, "26.0 dB from the golden one" in err) == (3, True)


def test_a_replay_that_is_not_complete_says_what_it_needs(run: Path, cli: Cli, tmp_path: Path):
    folder = recorded(tmp_path / "old", run)
    (folder / "times.json").write_text('[{"latencyMs": null}]')
    code, _, err = cli("ingest", run, "--replay", folder, "--target", run / "board.yaml")
    assert (code, "is not what trtexec --exportTimes writes" in err) == (2, True)
    (folder / "output.json").write_text('[{"values": [1, 2]}]')
    (folder / "times.json").write_text('[{"latencyMs": 1.0}]')
    code, _, err = cli("ingest", run, "--replay", folder, "--target", run / "board.yaml")
    assert (code, "is not what trtexec --exportOutput writes" in err) == (2, True)
    (folder / "device.json").unlink()
    code, _, err = cli("ingest", run, "--replay", folder, "--target", run / "board.yaml")
    assert (code, "a replay needs device.json, times.json and output.json" in err) == (2, True)


def test_either_a_result_or_a_replay(run: Path, cli: Cli):
    code, _, err = cli("ingest", run)
    assert (code, err.splitlines()[0]) == (2, "ingest: needs either a result or --replay DIR")


def test_a_run_that_made_no_bundle_is_named(run: Path, ingest: Ingest):
    result = make_result(run)
    shutil.rmtree(run / "bundle")
    code, _, err = ingest(result)
    assert (code, err) == (2, "run run: made no bundle that could have been benched\nhint: name the run that the bundle came from\n")
