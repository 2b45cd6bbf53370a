from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from pipeline.cli import main
from tests.interrupts import interruptible
from tests.search.small import SPACE, pipeline_text, pipeline_tree

ROOT = Path(__file__).resolve().parent.parent.parent
COMMAND = ("--target", "jetson-xavier", "--proxy-steps", "4")
NARROW = {"growth": [[1, 2]], "se": [0], "activation": ["relu"], "blocks": ["fused", "inverted_residual"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small pipeline, a small space, and a finished search of three trials."""
    made = tmp_path_factory.mktemp("search")
    (made / "small.yaml").write_text(pipeline_text())
    (made / "space.yaml").write_text(yaml.safe_dump(SPACE | NARROW))
    assert main(arguments(made, "--trials", "3")) == 0
    return made


def arguments(folder: Path, *more: object) -> list[str]:
    return [str(a) for a in ("search", folder / "small.yaml", "--space", folder / "space.yaml", *COMMAND, *more)]


def results(folder: Path) -> Path:
    return folder / ".pipeline" / "search" / "small-jetson-xavier"


def front(folder: Path) -> dict:
    return json.loads((results(folder) / "front.json").read_text())


def trials(found: dict) -> list[int]:
    return sorted(e["trial"] for part in ("front", "others", "without_result") for e in found[part])


def test_a_search_leaves_a_front_a_plot_and_pipelines_that_plan(folder: Path, cli):
    found = front(folder)
    assert (found["schema"], found["target"], found["frame"], found["limits"]["size_mb"]) == (1, "jetson-xavier", "1920x1080", 3.2)
    assert found["front"] and trials(found) == [0, 1, 2] and found["without_result"] == []
    evidence = {m["name"]: m["evidence"] for m in found["front"][0]["measurements"]}
    assert (evidence["psnr_gain"], evidence["latency_p50"]) == ("host", "estimated")
    assert (results(folder) / "front.svg").read_text().startswith("<svg ")
    shown = sorted(Path(e["pipeline"]).name for e in found["front"])
    assert shown == sorted(p.name for p in results(folder).glob("trial-*.yaml"))
    for entry in found["front"]:
        code, out, err = cli("plan", entry["pipeline"], "--target", "jetson-xavier", "--workspace", folder / ".pipeline", "--json")
        assert code == 0, err
        rows = {r["id"]: r["action"] for r in json.loads(out)}
        path = Path(entry["pipeline"])
        assert f"python -m pipeline run {path.name} --target jetson-xavier\nversion: 1\n" in path.read_text()
        assert rows["guide"] == "restored" and rows["student"] == "run", "a full run shares the teacher with the search"


def test_the_same_command_has_nothing_more_to_do_and_prints_json(folder: Path, cli):
    code, out, err = cli(*arguments(folder, "--trials", 3, "--json"))
    assert code == 0 and json.loads(out) == front(folder), err


def test_more_trials_go_on_with_two_workers(folder: Path, cli):
    before = front(folder)
    code, out, err = cli(*arguments(folder, "--trials", 5, "--workers", 2))
    assert code == 0, err
    assert "3 of 5 trials are done; study 'search' in sqlite:///" in out and "guide      restored" in out
    after = front(folder)
    assert trials(after) == [0, 1, 2, 3, 4] or len(trials(after)) < 5, "of trials that are the same one counts"
    kept = {e["trial"]: e["params"] for part in ("front", "others") for e in before[part]}
    assert kept.items() <= {e["trial"]: e["params"] for part in ("front", "others") for e in after[part]}.items()


def test_one_worker_draws_the_same_trials_again(folder: Path, tmp_path: Path, cli):
    code, _, err = cli(*arguments(folder, "--trials", 2, "--out", tmp_path / "again"))
    assert code == 0, err
    again = json.loads((tmp_path / "again" / "front.json").read_text())
    params = {e["trial"]: (e["params"], e["measurements"]) for part in ("front", "others") for e in front(folder)[part]}
    for entry in (*again["front"], *again["others"]):
        assert params[entry["trial"]] == (entry["params"], entry["measurements"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--proxy-steps", 5],
            "was begun with another number of proxy steps (4, now 5)\nhint: start a new one with --study NAME, or in another",
        ),
        (["--set", "seed=8"], "was begun with another pipeline\nhint: "),
        (["--full", 4], "--full: 4 full runs of 3 trials\nhint: ask for no more full runs than trials"),
        (["--storage", "words"], "--storage words: cannot be opened (Could not parse SQLAlchemy URL"),
        (["--space", "none.yaml"], "none.yaml: no such file"),
        (["--trials", 0], "invalid value for '--trials'"),
    ],
)
def test_what_does_not_fit_is_refused_in_two_lines(folder: Path, cli, more: list, message: str):
    code, _, err = cli(*arguments(folder, "--trials", 3, *more))
    assert code == 2 and message in err and len(err.strip().splitlines()) == 2


def test_without_a_result_the_first_reason_is_told(folder: Path, tmp_path: Path, cli):
    overrides = ("--set", "stages.student.with.train.crop=20", "--set", "stages.thin.with.recover.train.crop=20")
    code, out, err = cli(*arguments(folder, "--trials", 1, "--out", tmp_path, *overrides))
    reason = next(line for line in out.splitlines() if line.startswith("trial 0: failed: "))
    assert code == 5 and "train.crop: 20 is no multiple of" in reason
    assert err.startswith(f"search: none of 1 trials has a result; {reason}\n")
    assert "\nhint: widen the search space (--space), or run more --trials\n" in err


def test_a_teacher_that_misses_its_gate_ends_the_search(tmp_path: Path, cli):
    tree = pipeline_tree()
    tree["stages"]["guide"]["gates"] = [{"metric": "psnr_gain", "at_least": 50}]
    (tmp_path / "small.yaml").write_text(pipeline_text(tree))
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    code, _, err = cli(*arguments(tmp_path, "--trials", 1))
    assert code == 3 and "stage guide: gate 'psnr_gain at_least 50' is not met, so no student would get past it\nhint: see " in err


def test_an_interrupted_search_exits_130_and_goes_on(folder: Path, tmp_path: Path, cli):
    command = [sys.executable, "-m", "pipeline", *arguments(folder, "--trials", "4", "--out", tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    errors = tmp_path / "errors"
    with errors.open("w") as file, interruptible():
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=file)
    with process:
        wait_for(tmp_path / "trials" / "work", process, errors)
        interrupt(process, errors)
        assert process.wait(60) == 130, errors.read_text()
    code, out, err = cli(*arguments(folder, "--trials", 4, "--out", tmp_path))
    assert code == 0, err
    assert " of 4 trials are done" in out and "4 of 4 trials are done" not in out and "trial " in out


def wait_for(path: Path, process: subprocess.Popen, errors: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists() and time.monotonic() < deadline:
        assert process.poll() is None, errors.read_text()
        time.sleep(0.05)


def interrupt(process: subprocess.Popen, errors: Path) -> None:
    """Ctrl-C, again where one is lost in a destructor, until it is heard: one more would end Python while it cleans up."""
    looks = 0
    while process.poll() is None and "interrupted" not in errors.read_text():
        if looks % 20 == 0:
            process.send_signal(signal.SIGINT)
        looks += 1
        time.sleep(0.05)


@pytest.mark.slow
def test_full_runs_of_the_best_share_the_store(folder: Path, tmp_path: Path, cli):
    code, out, err = cli(*arguments(folder, "--trials", 3, "--out", tmp_path, "--full", 1))
    assert code == 0, err
    (run,) = json.loads((tmp_path / "front.json").read_text())["full_runs"]
    report = json.loads((Path(run["run"]) / "report.json").read_text())
    assert (run["verdict"], run["error"]) == (report["verdict"], None) and report["stages"][0]["status"] == "restored"
    assert "Full runs" in out and f"trial {run['trial']}, full run of " in out
    assert {"psnr_gain", "size"} <= {m["name"] for m in run["measurements"]}


def test_missing_optuna_exits_6(folder: Path, cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, err = cli(*arguments(folder, "--trials", 3))
    assert code == 6 and err.startswith("search: optuna is not installed (") and "\nhint: pip install 'optuna>=5,<6'" in err


def test_help_has_an_example(cli):
    code, out, _ = cli("search", "--help")
    assert code == 0 and "python -m pipeline search pipeline.yaml" in out
