from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
VERBS = sorted(p.stem for p in (ROOT / "pipeline" / "verbs").glob("[a-z]*.py"))
GROUPS = {"dataset": ("check", "pack")}


def test_help_is_light():
    heavy = ("torch", "tvm", "numpy", "cv2", "onnx")
    code = f"import sys; from pipeline.cli import main; main(['--help']); print(sorted(m for m in sys.modules if m in {heavy!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(cli, verb: str):
    for words in [(verb, part) for part in GROUPS.get(verb, ())] or [(verb,)]:
        code, out, _ = cli(*words, "--help")
        assert code == 0 and f"Example: python -m pipeline {' '.join(words)}" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rn"], "no such command 'rn'"),
        (["run", "p.yaml"], "missing option '--target'"),
        (["run", "p.yaml", "--target", "host", "--wat"], "no such option: --wat"),
        (["run", "none.yaml", "--target", "host"], "none.yaml: no such file"),
        (["targets", "host", "extra"], "got unexpected extra argument"),
    ],
)
def test_wrong_usage_is_two_lines_and_exit_2(cli, arguments: list[str], message: str):
    code, out, err = cli(*arguments)
    assert code == 2 and len(err.strip().splitlines()) == 2 and message in err and "\nhint: " in err and not out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu"], "python -m pipeline: no such command 'rnu'\nhint: did you mean 'run'?"),
        (["run", "p.yaml", "--targt", "host"], "python -m pipeline run: no such option: --targt\nhint: did you mean '--target'?"),
        (["run", "p.yaml"], "missing option '--target'\nhint: say --target NAME; 'python -m pipeline targets' lists the names"),
        (["dataset", "chek"], "python -m pipeline dataset: no such command 'chek'\nhint: did you mean 'check'?"),
    ],
)
def test_a_word_that_is_nearly_right_is_named(cli, arguments: list[str], message: str):
    code, _, err = cli(*arguments)
    assert code == 2 and message in err and len(err.strip().splitlines()) == 2


def test_a_workspace_that_cannot_be_written_is_two_lines_and_exit_2(cli, pipeline_file, target_file):
    code, _, err = cli("run", pipeline_file, "--target", target_file, "--workspace", target_file)
    assert code == 2 and err.startswith(f"{target_file}/runs: not a directory\nhint: name a folder that can be written to")


@pytest.mark.parametrize(("number", "hint"), [(errno.ENOSPC, "free some space"), (errno.EROFS, "name a folder that can be written to")])
def test_what_the_disk_refuses_is_no_bug(cli, monkeypatch, number: int, hint: str):
    def refused() -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("pipeline.cli.build_app", refused)
    code, _, err = cli("targets")
    assert code == 2 and err.startswith(f"disk: {os.strerror(number).lower()}\nhint: {hint}") and len(err.splitlines()) == 2


def test_a_file_of_ours_that_is_not_there_stays_a_bug(cli, monkeypatch):
    def missing() -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "ours.json")

    monkeypatch.setattr("pipeline.cli.build_app", missing)
    assert cli("targets")[0] == 70


def test_an_internal_bug_exits_70_with_a_traceback(cli, monkeypatch):
    def broken() -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr("pipeline.cli.build_app", broken)
    code, _, err = cli("targets")
    assert code == 70 and "RuntimeError: ours" in err and "please report" in err


def test_an_interruption_exits_130(cli, monkeypatch):
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.cli.build_app", interrupted)
    code, _, err = cli("targets")
    assert code == 130 and "goes on where it stopped" in err


def test_targets(cli):
    code, out, _ = cli("targets", "--json")
    found = {t["name"]: t for t in json.loads(out)}
    assert code == 0 and {"host", "jetson-xavier", "raspberry-pi-5", "android-arm64"} <= found.keys()
    assert found["jetson-xavier"]["frame"] == {"width": 1920, "height": 1080} and found["jetson-xavier"]["latency_budget_ms"] == 22.2
    assert "jetson-xavier" in cli("targets")[1]


def test_the_schema_describes_stages_and_readers(cli):
    code, out, _ = cli("schema")
    tree = json.loads(out)
    rules = {r["if"]["properties"]["uses"]["const"]: r["then"]["properties"]["with"] for r in tree["$defs"]["StageEntry"]["allOf"]}
    stages = {"distill.teach", "distill.student", "prune.stage", "quantize.stage", "compile.stage", "eval.benchmark"}
    assert code == 0 and stages <= rules.keys()
    assert "ratio" in rules["prune.stage"]["properties"]
    sources = [o["properties"]["source"]["const"] for o in tree["properties"]["data"]["additionalProperties"]["oneOf"]]
    assert {"samples", "folder"} <= set(sources)
