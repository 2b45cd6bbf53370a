from __future__ import annotations

import json
import subprocess
import sys

import pytest

VERBS = ["run", "plan", "targets", "schema"]


def test_help_is_light():
    heavy = ("torch", "tvm", "numpy", "cv2", "onnx")
    code = f"import sys; from pipeline.cli import main; main(['--help']); print(sorted(m for m in sys.modules if m in {heavy!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(cli, verb: str):
    code, out, _ = cli(verb, "--help")
    assert code == 0 and f"python -m pipeline {verb}" in out


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
