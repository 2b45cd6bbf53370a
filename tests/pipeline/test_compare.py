from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from pipeline.compare import compare
from tests.pipeline.report_example import example_report


@pytest.fixture
def run(cli, pipeline_file: Path, target_file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "200")

    def call(*overrides: str, expect: int = 0) -> Path:
        items = [part for item in overrides for part in ("--set", item)]
        code, _, err = cli("run", pipeline_file, "--target", target_file, *items)
        assert code == expect, err
        return (pipeline_file.parent / ".pipeline" / "runs" / "latest").resolve()

    return call


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def cells(found: dict, stage: str, name: str) -> list:
    return next(r["cells"] for r in found["measurements"] if (r["stage"], r["name"]) == (stage, name))


def test_two_runs_side_by_side(cli, run, pipeline_file: Path):
    first, second = run(), run("stages.second.with.drop=0.2")
    workspace = pipeline_file.parent / ".pipeline"
    code, out, _ = cli("compare", first.name, "latest", "--workspace", workspace)
    said = lines(out)
    assert code == 0 and said[0].startswith(f"run 1: {first.name}, toy-board, passed, ") and said[1].startswith(f"run 2: {second.name}, ")
    assert "first psnr host 30.00 dB 30.00 dB (=)" in said
    assert "second psnr host 29.85 dB 29.70 dB (−0.15 dB, worse)" in said
    assert "first psnr at_least ✓ passed: 30.00 dB, bound 25.00 dB ✓ passed: 30.00 dB, bound 25.00 dB" in said
    assert "second psnr drop_at_most against first ✓ passed: 0.15 dB, bound 0.50 dB ✓ passed: 0.30 dB, bound 0.50 dB" in said
    assert not any(line.startswith("note") for line in said)


def test_json_and_only_what_changed(cli, run):
    first, second = run(), run("stages.second.with.drop=0.05")
    code, out, err = cli("compare", first, second, "--json", "--changed")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert [r["name"] for r in found["runs"]] == [first.name, second.name]
    (row,) = found["measurements"]
    assert (row["stage"], row["name"], row["unit"], row["better"], row["evidence"]) == ("second", "psnr", "dB", "higher", "host")
    assert row["cells"][1]["difference"] == pytest.approx(0.075) and row["cells"][1]["direction"] == "better"
    (gate,) = found["gates"]
    assert [c["value"] for c in gate["cells"]] == [pytest.approx(0.15), pytest.approx(0.075)]
    restored, again = found["stages"]
    assert [c["status"] for c in restored["cells"]] == ["ran", "restored"] and restored["cells"][0]["key"] == restored["cells"][1]["key"]
    assert [c["status"] for c in again["cells"]] == ["ran", "ran"] and again["cells"][0]["key"] != again["cells"][1]["key"]


def test_a_run_that_stopped_early_leaves_gaps(cli, run):
    first, failed = run(), run("stages.first.gates.0.at_least=40", expect=3)
    found = json.loads(cli("compare", first, failed, "--json")[1])
    assert cells(found, "second", "psnr")[1] is None and cells(found, "first", "psnr")[1]["direction"] == "equal"
    gate = found["gates"][0]["cells"]
    assert [(c["bound"], c["verdict"]) for c in gate] == [(25, "passed"), (40, "failed")]
    assert found["gates"][1]["cells"][1] is None
    _, out, _ = cli("compare", failed, first)
    assert "second psnr host – 29.85 dB" in lines(out)
    assert "first psnr at_least ✗ failed: 30.00 dB, bound 40.00 dB ✓ passed: 30.00 dB, bound 25.00 dB" in lines(out)


@pytest.fixture
def written(tmp_path: Path):
    """Write a changed copy of the example report; returns its folder."""

    def write(name: str, change=lambda report: None) -> Path:
        report = copy.deepcopy(example_report())
        change(report)
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(report))
        return tmp_path / name

    return write


def test_lower_is_better_where_it_is_and_settings_tell_latencies_apart(written):
    def slower(report: dict) -> None:
        for m in report["stages"][-1]["measurements"]:
            if m["name"] == "latency_p50" and m["evidence"] == "host":
                m["value"] += 10.0

    found = compare([written("a"), written("b", slower)])
    rows = [r for r in found["measurements"] if (r["stage"], r["name"]) == ("benchmark", "latency_p50")]
    assert [(r["evidence"], r["settings"]) for r in rows] == [
        ("host", "frame 1920x1080, threads 1"),
        ("estimated", "frame 1920x1080, backend tensorrt, threads 1"),
    ]
    assert [r["cells"][1]["direction"] for r in rows] == ["worse", "equal"]


def test_a_number_that_is_none_has_no_direction(cli, written):
    found = compare([written("a"), written("b")])
    assert cells(found, "quantize", "lpips")[1] == {"value": None, "samples": 4, "difference": None, "direction": None}


def test_notes_on_targets_and_machines(written):
    def elsewhere(report: dict) -> None:
        report["target"] = "raspberry-pi-5"
        report["host"] = {**report["host"], "cpu": "another"}

    assert compare([written("a"), written("b")])["notes"] == []
    assert compare([written("c"), written("d", elsewhere)])["notes"] == [
        "the runs are for different targets: estimates and bounds are not comparable",
        "the runs were made on different machines: timings measured on the host are not comparable",
    ]


def test_wrong_runs(cli, written, tmp_path: Path):
    run = written("a")
    said = cli("compare", run)
    assert said == (2, "", f"compare: one run alone cannot be compared\nhint: name another: compare {run} latest\n")
    assert cli("compare", "latest")[2].endswith("hint: name another: compare latest RUN\n")
    code, _, err = cli("compare", run, "latest", "--workspace", tmp_path / "no")
    hint = "run a pipeline first, or say --workspace DIR, or give a run's folder"
    assert (code, err) == (2, f"latest: there is no run in {tmp_path / 'no'}\nhint: {hint}\n")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "run.json").write_text("{}")
    path = tmp_path / "b" / "report.json"
    assert cli("compare", run, tmp_path / "b")[2] == (
        f"{path}: file does not exist\nhint: the run has not ended, or was killed; run it again\n"
    )
    path.write_text("[]")
    assert cli("compare", run, tmp_path / "b")[2] == f"{path}: is not the report of a run\nhint: run the pipeline again\n"


def test_the_beginning_of_a_name_must_be_of_one_run(cli, tmp_path: Path):
    for name in ("20260301-a", "20260302-b"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "report.json").write_text(json.dumps(example_report()))
    found = json.loads(cli("compare", "20260302", "20260301-a", "--workspace", tmp_path, "--json")[1])
    assert [r["name"] for r in found["runs"]] == ["20260302-b", "20260301-a"]
    code, _, err = cli("compare", "2026", "20260301-a", "--workspace", tmp_path)
    assert (code, err) == (2, "2026: 2 runs begin so\nhint: give more of the name: 20260301-a, 20260302-b\n")


def test_help_has_examples(cli):
    code, out, _ = cli("compare", "--help")
    assert code == 0 and out.count("Example: python -m pipeline compare") == 2


def test_at_80_columns_the_figures_fold_and_the_names_stay(cli, run, monkeypatch: pytest.MonkeyPatch):
    first, second = run(), run("stages.second.with.drop=0.2")
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = cli("compare", first, second, first)
    gates = lines(out.split("Gates")[1])
    assert code == 0 and "…" not in out and any(line.startswith("second psnr drop_at_most") for line in gates)
