from __future__ import annotations

import json

import pytest

from pipeline.calibration import Recorded, calibration_path, fingerprint, learned, read, record, refined, workspace_of_run
from pipeline.errors import UsageError
from pipeline.target import Calibration, KindCost, load_target

COST = KindCost(kind="dense", precision="fp32", launch_us=1, us_per_mmac=2, us_per_mb=3, networks=9)


def one(backend: str = "onnxruntime", error: float = 0.1, runs_on: str = "cpu") -> Recorded:
    made = Calibration(backend=backend, precision="fp32", threads=1, costs=(COST,), networks=20, error=error)
    return Recorded(runs_on=runs_on, calibration=made, rows=({"network": "x", "ms": 1.0},))


def test_what_was_recorded_refines_the_target_and_nothing_else(tmp_path):
    board = load_target("raspberry-pi-5")
    assert refined(board, tmp_path) is board
    record(tmp_path, board, [one()], {"model": "Raspberry Pi 5"})
    found = refined(board, tmp_path)
    assert found.rates["cpu"].calibrations == (one().calibration,)
    assert found.model_copy(update={"rates": board.rates}) == board
    assert refined(load_target("jetson-xavier"), tmp_path).rates["cpu"].calibrations == ()


def test_recording_again_replaces_the_same_and_keeps_the_rest(tmp_path):
    board = load_target("raspberry-pi-5")
    record(tmp_path, board, [one(), one("tvm")])
    path = record(tmp_path, board, [one(error=0.2)])
    assert [(r.calibration.backend, r.calibration.error) for r in read(path).recorded] == [("tvm", 0.1), ("onnxruntime", 0.2)]


def test_the_hosts_is_kept_by_machine(tmp_path, monkeypatch):
    host = load_target("host")
    path = record(tmp_path, host, [one()])
    assert path == tmp_path / "calibration" / f"host-{fingerprint()}.json"
    monkeypatch.setattr("pipeline.calibration.machine_facts", lambda: {"cpu": "another", "arch": "x86_64"})
    assert refined(host, tmp_path) == host


def test_a_calibration_of_another_target_is_refused(tmp_path):
    board, other = load_target("raspberry-pi-5"), load_target("raspberry-pi-4")
    record(tmp_path, board, [one()]).rename(calibration_path(tmp_path, other))
    with pytest.raises(UsageError, match="was recorded on 'raspberry-pi-5', not on 'raspberry-pi-4'"):
        refined(other, tmp_path)


def test_a_processor_without_rates_is_refused(tmp_path):
    board = load_target("raspberry-pi-5")
    record(tmp_path, board, [one(runs_on="gpu")])
    with pytest.raises(UsageError, match="has figures for the gpu"):
        refined(board, tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 2}', "\xff"])
def test_a_damaged_file_is_refused(tmp_path, text):
    board = load_target("raspberry-pi-5")
    path = record(tmp_path, board, [one()])
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match="is no calibration"):
        refined(board, tmp_path)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_impossible_figures_are_refused(tmp_path, value):
    board = load_target("raspberry-pi-5")
    path = record(tmp_path, board, [one()])
    content = json.loads(path.read_text())
    content["recorded"][0]["calibration"]["costs"][0]["us_per_mb"] = value
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match="is no calibration"):
        refined(board, tmp_path)


def test_a_calibration_is_part_of_what_stages_see(tmp_path):
    from pipeline.target import TargetView

    board = load_target("raspberry-pi-5")
    record(tmp_path, board, [one()])
    assert TargetView(refined(board, tmp_path), ("rates",)).key() != TargetView(board, ("rates",)).key()


def test_what_was_learned_is_listed_with_its_age_and_with_how_far_estimates_were_off(tmp_path):
    from targets.predictions import Prediction, append

    board = load_target("raspberry-pi-5")
    assert list(learned(board, tmp_path)) == []
    new = one().model_copy(update={"when": "2020-01-01T00:00:00Z", "board": "Raspberry Pi 5 Model B"})
    path = record(tmp_path, board, [new], {"model": "Raspberry Pi 5 Model B"})
    for target in ("raspberry-pi-5", "raspberry-pi-4"):
        append(path.with_name("predictions.jsonl"), Prediction(target, "a", "tvm", "int8", "256x256", "calibrated", 11.0, 10.0, "target"))
    first, where, last = learned(board, tmp_path)
    head = "onnxruntime fp32 on the cpu 1 thread: 20 microbenchmarks, on Raspberry Pi 5 Model B, left-out error 10%, "
    assert first.startswith(head)
    assert first.removeprefix(head).split()[1:] == ["days", "old"]
    assert where == str(path)
    assert last == "tvm int8 (calibrated): 1 measured, error median 10%, worst 10%, last 11.00 for 10.00 ms"


def test_a_runs_workspace_is_the_one_that_it_lies_in(tmp_path):
    (tmp_path / "ws/runs/r").mkdir(parents=True)
    (tmp_path / "ws/runs/latest").symlink_to("r")
    assert workspace_of_run(tmp_path / "ws/runs/latest", tmp_path) == tmp_path / "ws"
    assert workspace_of_run(tmp_path / "bundle", tmp_path / "other") == tmp_path / "other"
