from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture
def run(cli, pipeline_file: Path, target_file: Path):
    def call(*arguments: str, expect: int = 0):
        code, out, err = cli("run", pipeline_file, "--target", target_file, *arguments)
        assert code == expect, err
        return out, err, read_report(pipeline_file)

    return call


def read_report(pipeline_file: Path) -> dict:
    return json.loads((pipeline_file.parent / ".pipeline" / "runs" / "latest" / "report.json").read_text())


def statuses(report: dict) -> list[str]:
    return [s["status"] for s in report["stages"]]


def test_a_run_writes_its_directory_and_a_second_one_restores_every_stage(run, pipeline_file: Path):
    out, _, report = run()
    assert statuses(report) == ["ran", "ran"] and report["verdict"] == "passed" and report["schema"] == 1
    latest = pipeline_file.parent / ".pipeline" / "runs" / "latest"
    names = {"run.json", "pipeline.resolved.yaml", "events.jsonl", "report.json", "report.md", "report.html", "stages"}
    assert names <= {p.name for p in latest.iterdir()}
    assert {"report.json", "report.md", "log.txt", "model.safetensors"} <= {p.name for p in (latest / "stages" / "01-first").iterdir()}
    assert (latest / report["stages"][1]["outputs"]["model"]["path"]).read_text() == "hi3 8"
    gate = report["stages"][1]["gates"][0]
    assert (gate["rule"], gate["against"], gate["verdict"]) == ("drop_at_most", "first", "passed")
    logs = [(latest / "stages" / name / "log.txt").read_text() for name in ("01-first", "02-second")]
    assert logs[0].endswith(" wrote it\n") and logs[1] == ""
    first_keys = [s["key"] for s in report["stages"]]
    _, _, again = run()
    assert statuses(again) == ["restored", "restored"] and [s["key"] for s in again["stages"]] == first_keys
    for name, log, stage in zip(("01-first", "02-second"), logs, again["stages"], strict=True):
        head, rest = (latest / "stages" / name / "log.txt").read_text().split("\n", 1)
        assert f" restored: the result of {stage['measured_at']}" in head and rest == log
    assert not list((pipeline_file.parent / ".pipeline" / "store" / "work").glob("*/"))


def test_a_result_that_was_kept_without_its_log_is_restored(run, pipeline_file: Path):
    run()
    for path in (pipeline_file.parent / ".pipeline" / "store" / "results").glob("*/*.json"):
        result = json.loads(path.read_text())
        del result["log"]
        path.write_text(json.dumps(result))
    _, _, report = run()
    assert statuses(report) == ["restored", "restored"]
    log = (pipeline_file.parent / ".pipeline" / "runs" / "latest" / "stages" / "01-first" / "log.txt").read_text()
    assert log.endswith(f" restored: the result of {report['stages'][0]['measured_at']}\n") and log.count("\n") == 1


def test_force_until_from_and_set(run):
    out, err, _ = run("--from", "second", expect=2)
    assert err == "--from second: stage 'first' comes before it and has no stored result\nhint: run without --from, or from 'first'\n"
    _, _, report = run("--until", "first")
    assert statuses(report) == ["ran", "skipped"]
    _, _, report = run("--from", "second")
    assert statuses(report) == ["restored", "ran"]
    _, _, report = run("--force", "second", "--set", "stages.second.with.drop=0.2")
    assert statuses(report) == ["restored", "ran"]
    _, err, _ = run("--until", "secnd", expect=2)
    assert err == "--until: there is no stage 'secnd'\nhint: did you mean 'second'?\n"


def test_a_changed_input_runs_again_what_depends_on_it(run):
    run()
    _, _, report = run("--set", "stages.first.with.quality=30.1")
    assert statuses(report) == ["ran", "restored"], "the same bytes come out, so what follows is restored"
    _, _, report = run("--set", "stages.first.with.text=other")
    assert statuses(report) == ["ran", "ran"]


def test_a_failed_gate_skips_what_follows_and_exits_3(run):
    _, err, report = run("--set", "stages.first.gates.0.at_least=40", expect=3)
    assert statuses(report) == ["ran", "skipped"] and report["verdict"] == "failed"
    assert err.startswith("stage first: gate 'psnr at_least 40 dB' is not met, it is 30 dB\nhint: report.html shows")


def test_an_unproven_gate_exits_4_and_does_not_stop_the_run(run):
    _, err, report = run("--set", "stages.first.gates.0.metric=latency_p90", expect=4)
    assert statuses(report) == ["ran", "ran"] and report["verdict"] == "unproven"
    assert err.startswith("stage first: gate 'latency_p90 at_least 25' is unproven: no measurement 'latency_p90'\nhint: ")


def test_a_stage_that_raises_exits_5_with_the_log_named(run, pipeline_file: Path):
    _, err, report = run("--set", "stages.first.with.fail=out of luck", expect=5)
    assert err.startswith("stage first: ValueError: out of luck\nhint: the traceback is in ")
    log = Path(err.strip().rpartition(" ")[2])
    assert "Traceback" in log.read_text() and "toy_source.py" in log.read_text()
    assert statuses(report) == ["failed", "skipped"] and report["stages"][0]["error"]


def test_an_undeclared_target_field_is_refused(run):
    _, err, _ = run("--set", "stages.second.with.forbidden=true", expect=5)
    assert "target.opset is not declared in reads_target" in err


def test_a_damaged_object_is_made_again_with_a_warning(run, pipeline_file: Path):
    _, _, report = run()
    path = pipeline_file.parent / ".pipeline" / "runs" / "latest" / report["stages"][0]["outputs"]["model"]["path"]
    path.resolve().write_text("garbage")
    out, _, report = run()
    assert statuses(report) == ["ran", "restored"] and "is damaged or missing; the stage runs again" in out
    assert path.read_text() == "hi3"


def test_json_prints_the_report_alone(run):
    out, _, report = run("--json")
    assert json.loads(out) == report


def test_the_workspace_can_be_elsewhere(run, tmp_path: Path):
    run()
    run("--workspace", str(tmp_path / "elsewhere"))
    assert (tmp_path / "elsewhere" / "runs" / "latest" / "report.json").exists()


def test_plan_says_what_would_run_and_why(cli, run, pipeline_file: Path, target_file: Path):
    def rows() -> list[tuple[str, str, str]]:
        code, out, _ = cli("plan", pipeline_file, "--target", target_file, "--json")
        assert code == 0
        return [(r["id"], r["action"], r["why"].partition(" of ")[0]) for r in json.loads(out)]

    assert rows() == [("first", "run", "no stored result with its key"), ("second", "run", "first runs before it")]
    run()
    assert rows() == [("first", "restored", "result"), ("second", "restored", "result")]
    code, out, _ = cli("plan", pipeline_file, "--target", target_file)
    assert code == 0 and "restored" in out


def test_an_interrupted_run_has_not_passed(run, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.runner.guarded", interrupted)
    _, err, report = run(expect=130)
    assert err == "interrupted; the same command goes on where it stopped\n"
    assert report["verdict"] == "unproven" and statuses(report) == ["skipped", "skipped"]


def test_a_part_of_a_run_says_what_it_left_out_and_must_not_end_before_it_begins(run):
    out, _, report = run("--until", "first")
    assert report["verdict"] == "passed" and out.splitlines()[-2].endswith("1 of 1 gates passed, 1 of 2 stages not run")
    _, err, _ = run("--from", "second", "--until", "first", expect=2)
    assert err == "--from second: comes after --until first\nhint: known, in order: first, second\n"


def test_a_gate_on_the_worst_image_says_so(run):
    gate = "stages.second.gates=[{metric: psnr, drop_at_most: 0.01, against: first, statistic: worst}]"
    out, err, _ = run("--set", gate, expect=3)
    assert "gate 'psnr drop_at_most 0.01 dB against first (worst)' is not met" in err and "✗ psnr (worst)" in out


def test_a_gate_on_what_no_stage_measures_names_the_next_step(run):
    _, err, _ = run("--set", "stages.second.gates=[{metric: latency_p90, at_most: 5}]", expect=4)
    assert "is unproven: no measurement 'latency_p90'\nhint: gate on what the stage measures" in err


@pytest.mark.parametrize("width", [80, 120])
def test_a_plan_fits_the_terminal_and_names_the_next_step(run, cli, pipeline_file: Path, target_file: Path, monkeypatch, width: int):
    monkeypatch.setenv("COLUMNS", str(width))
    assert "explain" not in cli("plan", pipeline_file, "--target", target_file)[1], "there is no run to compare with"
    run("--until", "first")
    code, out, _ = cli("plan", pipeline_file, "--target", target_file)
    rows = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert code == 0 and "…" not in out and max(map(len, out.splitlines()[:-1])) <= width
    assert "restored   result of 20" in rows["first"] and "run        no stored result with its key" in rows["second"]
    assert ("first.model" in rows["second"]) == (width >= 110)
    assert "python -m pipeline explain pipeline.yaml STAGE --target toy-board" in out
