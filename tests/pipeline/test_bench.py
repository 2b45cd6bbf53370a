"""bench: the verb, on this machine and on boards that are no boards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.boards.bundle_example import NAME, small_bundle
from tests.boards.run_example import BOARD, make_run
from tests.interrupts import interruptible

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def own_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import tempfile

    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def board_file(tmp_path: Path) -> Path:
    (tmp_path / "board.yaml").write_text(BOARD)
    return tmp_path / "board.yaml"


@pytest.mark.slow
def test_from_a_finished_run_to_an_ingested_result_in_one_command(tmp_path: Path, cli: Cli, own_tmp: Path):
    run, out = make_run(tmp_path / "run", target="host"), tmp_path / "r/result.json"
    code, said, err = cli("bench", run, "--on", "local", "--seconds", 0.3, "--out", out, "--ingest", run)
    if code == 4:
        pytest.skip(f"this machine is too busy for a steady timing: {err}")
    assert code in {0, 3}, err
    result = json.loads(out.read_text())
    assert (result["schema"], result["artifact"], result["verified"]) == (2, NAME, True)
    assert result["transport"] == {"scheme": "local", "name": "local", "function_only": False}
    assert "uid" not in result["board"]
    assert "ingested as version 2" in said
    assert json.loads((run / "report.json").read_text())["ingested"][0]["artifact"] == NAME
    assert list(own_tmp.glob("deblur*")) == []


@pytest.mark.slow
def test_on_this_machine_a_bundle_for_a_board_runs_and_does_not_count(tmp_path: Path, cli: Cli, board_file: Path):
    run, out = make_run(tmp_path / "run"), tmp_path / "result.json"
    arguments = ("--seconds", 0.3, "--out", out, "--target", board_file, "--ingest", run)
    code, said, err = cli("bench", run, "--on", "local", *arguments)
    assert "warning: the result cannot count for toy-board: its model is unknown" in said
    if code == 4:
        pytest.skip(f"this machine is too busy for a steady timing: {err}")
    assert code == 2
    assert "which is not toy-board" in err
    assert not (run / "report.1.json").exists()


def test_a_failing_benchmark_keeps_its_log(tmp_path: Path, cli: Cli, own_tmp: Path):
    bundle = small_bundle(tmp_path / "bundle", "host", backend="abacus")
    out = tmp_path / "result.json"
    code, said, err = cli("bench", bundle, "--on", "local", "--out", out)
    assert code == 5
    assert err.startswith("local: bench.py failed on the board (status 2): error: ")
    assert "abacus" in err
    assert f"kept {out}.log" in said
    assert "abacus" in Path(f"{out}.log").read_text()
    assert err.splitlines()[1] == f"hint: read {out}.log"
    assert not out.exists()
    assert list(own_tmp.glob("deblur*")) == []


@pytest.mark.parametrize(
    ("script", "what", "hint", "kept"),
    [
        ("print('words')", "the benchmark ended without writing result.json", "read {out}.log", ["result.json.log"]),
        ("pass", "the benchmark ended without writing result.json", "nothing was logged: leave the bundle there with --keep and", []),
        (
            "print(1); open('result.json', 'w').write('no')",
            "result.json is not JSON (",
            "read what was kept of it, and run again",
            ["result.json.log", "result.partial-result.json"],
        ),
    ],
)
def test_what_is_no_result_is_kept_and_named(tmp_path: Path, cli: Cli, own_tmp: Path, script: str, what: str, hint: str, kept: list[str]):
    bundle = small_bundle(tmp_path / "bundle", "host", extra={"bench.py": script.encode()})
    out = tmp_path / "out" / "result.json"
    out.parent.mkdir()
    code, _, err = cli("bench", bundle, "--on", "local", "--out", out)
    assert code == 5
    assert err.startswith(f"local: {what}")
    assert err.splitlines()[1].startswith(f"hint: {hint.format(out=out)}")
    assert sorted(p.name for p in out.parent.iterdir()) == kept
    assert list(own_tmp.glob("deblur*")) == []


def tensorrt_folder() -> Path:
    from compile.tensorrt import backend

    return Path(backend.__file__).parent


BESIDE_ENGINES = ("build_engine.py", "trt_engine.py")
STALE = """#!/bin/sh
echo "[E] 6: The engine plan file is not compatible with this version of TensorRT, expecting library version 8.5.2 got 8.4.1" >&2
exit 1
"""


def test_a_stale_engine_is_refused_with_what_to_do(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, own_tmp: Path):
    trtexec = tmp_path / "trtexec"
    trtexec.write_text(STALE)
    trtexec.chmod(0o755)
    monkeypatch.setenv("TRTEXEC", str(trtexec))
    built = {"onnx": "reference/fp32.onnx", "engine": "artifacts/x.engine", "layers": "artifacts/x.layers.json"}
    facts = {"backend": "compile.tensorrt", "engine": built["engine"], "run_flags": [], "tensorrt": "8.5.2", "builder": built}
    helpers = {p.name: p.read_bytes() for p in (tensorrt_folder() / n for n in BESIDE_ENGINES) if p.exists()}
    extra = {"artifacts/x.engine": b"old", **helpers}
    bundle = small_bundle(tmp_path / "bundle", "host", extra=extra, backend="tensorrt", facts=facts)
    code, _, err = cli("bench", bundle, "--on", "local", "--out", tmp_path / "result.json")
    assert code == 5
    assert "build_engine.sh" in err
    assert list(own_tmp.glob("deblur*")) == []


def test_an_interrupted_bench_leaves_a_clean_machine(tmp_path: Path, own_tmp: Path):
    bundle = small_bundle(tmp_path / "bundle", "host")
    command = [sys.executable, "-m", "pipeline", "bench", bundle, "--on", "local", "--seconds", "60", "--out", tmp_path / "result.json"]
    environment = {**os.environ, "TMPDIR": str(own_tmp)}
    with interruptible():
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    for line in process.stdout:  # type: ignore[union-attr]
        if "PASS" in line:
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    deadline = time.monotonic() + 10
    while list(own_tmp.glob("deblur*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert list(own_tmp.glob("deblur*")) == []


@pytest.mark.parametrize(
    ("on", "want"),
    [
        ("shh://board", "--on: unknown way to a board 'shh'\nhint: did you mean 'ssh'?"),
        ("local:x", "--on local:x: takes nothing after the name"),
        ("emulate", "--on emulate: names no CPU"),
        ("ssh://-oProxyCommand=x", "--on ssh://-oProxyCommand=x: is not an address"),
        ("rpc://host", "--on rpc://host: is not a tracker and a key"),
        ("adb:a b", "--on adb:a b: is not a serial number"),
    ],
)
def test_what_is_no_way_to_a_board_is_said(tmp_path: Path, cli: Cli, on: str, want: str):
    code, _, err = cli("bench", small_bundle(tmp_path / "bundle", "host"), "--on", on)
    assert (code, err.startswith(want)) == (2, True), err


@pytest.mark.parametrize("out", [".", "..", "there"])
def test_a_folder_as_out_is_refused_before_anything_runs(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, own_tmp: Path, out: str
):
    monkeypatch.chdir(own_tmp)
    (own_tmp / "there").mkdir()
    code, said, err = cli("bench", small_bundle(tmp_path / "bundle", "host"), "--on", "local", "--seconds", 0, "--out", out)
    assert (code, said, err) == (2, "", f"--out {out}: is a folder\nhint: name a file in it, e.g. result.json\n")


def test_a_run_is_named_as_elsewhere_and_must_have_a_bundle(tmp_path: Path, cli: Cli):
    made = make_run(tmp_path / "ws/runs/20260301-120003-toy-board")
    code, _, err = cli("bench", "latest", "--on", "local", "--workspace", tmp_path / "ws")
    assert (code, "bundle: is for 'toy-board', which is no shipped target" in err) == (2, True)
    shutil.rmtree(made / "bundle")
    (made / "stages/01-teach").mkdir(parents=True)
    (made / "stages/01-teach/model.safetensors").touch()  # no board takes one
    code, _, err = cli("bench", "latest", "--on", "local", "--workspace", tmp_path / "ws")
    assert (code, err) == (2, f"run {made.name}: has no bundle\nhint: name a run that came to the end of compile\n")


def test_what_is_no_bundle_is_said(tmp_path: Path, cli: Cli, board_file: Path):
    code, _, err = cli("bench", tmp_path, "--on", "local")
    assert (code, "is not a bundle" in err) == (2, True)
    bundle = small_bundle(tmp_path / "bundle")
    code, _, err = cli("bench", bundle, "--on", "local")
    assert (code, "is for 'toy-board', which is no shipped target" in err) == (2, True)
    code, _, err = cli("bench", bundle, "--on", "local", "--target", "host")
    assert (code, "is 'host', the bundle is for 'toy-board'" in err) == (2, True)
    code, _, err = cli("bench", bundle, "--on", "local", "--target", board_file, "--artifact", "onnxruntime-fp33")
    assert (code, "did you mean 'onnxruntime-fp32'?" in err) == (2, True)


def test_the_ways_are_found_and_in_the_help(cli: Cli):
    from targets.transports import known_schemes, transport_class

    assert {"adb", "emulate", "local", "rpc", "ssh"} <= set(known_schemes())
    for scheme in known_schemes():
        found = transport_class(scheme)
        assert found.scheme == scheme
        assert found.form.startswith(scheme)
        assert found.__doc__
    code, out, _ = cli("bench", "--help")
    assert code == 0
    assert all(f"{scheme}" in out for scheme in known_schemes())
