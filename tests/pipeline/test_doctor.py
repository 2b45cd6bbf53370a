from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import pipeline.doctor
from pipeline.doctor import PROJECT, examine, requirements
from pipeline.target import load_target

NOBODY = "ssh://127.0.0.1:1"
"""A board that nobody is."""

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def no_gpu_is_looked_for(monkeypatch: pytest.MonkeyPatch):
    """Importing torch takes seconds; one test does."""
    monkeypatch.setattr(pipeline.doctor, "_gpu", lambda: pipeline.doctor.Finding("gpu", "cuda", "none", "not looked for"))


def named(found: list, group: str) -> dict:
    return {f.name: f for f in found if f.group == group}


def test_every_backend_and_userland_is_found():
    found = examine()
    folders = {p.parent.name for p in (PROJECT.parent / "compile").glob("*/backend.py")}
    assert set(named(found, "backends")) == folders
    assert {"bookworm", "bullseye"} <= set(named(found, "emulation"))
    assert set(named(found, "tools")) == {"ssh", "adb", "sshd"}
    assert all((f.state == "missing") == bool(f.install) for f in found)


def test_what_is_needed_is_the_target_s():
    needed = {f.name for f in examine(load_target("raspberry-pi-5")) if f.needed}
    assert needed == {"base", "train", "onnx"} | {b.use for b in load_target("raspberry-pi-5").backends}
    assert {f.name for f in examine() if f.needed} == {"base", "train", "onnx"}
    assert named(examine(load_target("host")), "emulation") == {}


def test_packages_are_those_of_the_project_with_their_pins():
    extras = requirements()
    assert {"", "train", "onnx", "tvm"} <= set(extras)
    assert not {"all", "dev"} & set(extras)
    assert "torch" in {r.name for r in extras["train"]}


def test_a_version_that_does_not_fit_is_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\ndependencies = ["numpy>=1"]\n[project.optional-dependencies]\ntrain = ["numpy<1", "not-there-at-all"]\n')
    monkeypatch.setattr(pipeline.doctor, "PROJECT", project)
    found = named(examine(), "packages")
    assert found["base"].state == "ok"
    assert found["train"].install == 'pip install -e ".[train]"'
    assert "numpy<1 (" in found["train"].detail
    assert "not-there-at-all (not installed)" in found["train"].detail


def test_a_missing_backend_is_exit_6_for_a_target_that_needs_it(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "ai_edge_litert" else real(name, *a))
    code, out, err = cli("doctor", "--target", "raspberry-pi-5")
    assert code == 6
    assert "MISSING  litert" in out
    assert 'pip install -e ".[litert,onnx]"' in out
    assert "doctor: raspberry-pi-5 needs what is missing: " in err
    assert "backends litert" in err
    assert err.splitlines()[1].startswith("hint: pip install ")
    assert "nothing is missing" not in out
    code, out, _ = cli("doctor", "--target", "host", "--json")
    needed = {f["name"] for f in json.loads(out)["findings"] if f["group"] == "backends" and f["needed"]}
    assert needed == {b.use for b in load_target("host").backends}


def test_json_says_it_all_and_an_optional_gap_is_no_error(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(pipeline.doctor, "ALWAYS", ())
    code, out, err = cli("doctor", "--json")
    found = json.loads(out)
    assert (code, err, found["ok"], found["target"]) == (0, "", True, None)
    tools = {f["name"]: f["install"] for f in found["findings"] if f["group"] == "tools"}
    assert tools == {"ssh": "apt-get install openssh-client", "adb": "apt-get install adb", "sshd": "apt-get install openssh-server"}


def test_an_unknown_target_is_exit_2(cli: Cli):
    code, _, err = cli("doctor", "--target", "raspberry-pi-55")
    assert code == 2
    assert "unknown target 'raspberry-pi-55'" in err


@pytest.mark.slow
def test_the_gpu_is_named_or_its_absence_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    torch = pytest.importorskip("torch")
    [gpu] = [f for f in examine() if f.group == "gpu"]
    assert (gpu.state == "ok") is torch.cuda.is_available()
    assert gpu.detail


def test_the_last_line_says_what_is_needed(cli: Cli):
    code, out, _ = cli("doctor", "--target", "jetson-nano")
    needed = "packages base, train, onnx; backends onnxruntime, tensorrt, tvm"
    assert code == 0 and out.splitlines()[-1] == f"jetson-nano needs {needed}: nothing is missing"


@pytest.fixture
def only_devices(monkeypatch: pytest.MonkeyPatch):
    """What is installed here does not count."""
    for looked_for in ("_packages", "_backends"):
        monkeypatch.setattr(pipeline.doctor, looked_for, lambda *_: [])


@pytest.mark.usefixtures("only_devices")
def test_this_machine_and_the_boards_that_are_asked_for(cli: Cli):
    devices = named(examine(), "devices")
    assert list(devices) == ["local"] and devices["local"].state == "ok"
    assert devices["local"].detail.endswith(", target host")
    code, out, err = cli("doctor", "--target", "raspberry-pi-5", "--on", "local", "--on", NOBODY, "--json")
    found = {f["name"]: f for f in json.loads(out)["findings"] if f["group"] == "devices"}
    assert (code, found["local"]["state"], found[NOBODY]["state"]) == (6, "missing", "missing")
    assert found["local"]["detail"].endswith(", target host, not raspberry-pi-5")
    assert found["local"]["install"] == f"connect {load_target('raspberry-pi-5').title}"
    assert err.startswith(f"doctor: raspberry-pi-5 needs what is missing: devices local, devices {NOBODY}\n")
    assert err.splitlines()[1] == f"hint: {found['local']['install']}"


@pytest.mark.parametrize(("on", "want"), [("shh://x", "did you mean 'ssh'?"), ("emulate:cortex-a67", "did you mean 'cortex-a")])
def test_a_board_that_is_written_wrongly_is_exit_2(cli: Cli, on: str, want: str):
    code, _, err = cli("doctor", "--on", on)
    assert (code, want in err) == (2, True)


@pytest.mark.usefixtures("only_devices")
def test_a_target_that_names_no_board_takes_any(cli: Cli, target_file: Path):
    code, out, err = cli("doctor", "--target", target_file, "--on", "local")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].endswith(" needs devices local: nothing is missing")


@pytest.mark.usefixtures("only_devices")
def test_a_board_that_is_the_target_is_nothing_missing(cli: Cli):
    code, out, _ = cli("doctor", "--target", "host", "--on", "local")
    assert code == 0 and out.splitlines()[-1].endswith("needs devices local: nothing is missing")
