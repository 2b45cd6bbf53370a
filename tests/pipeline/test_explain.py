from __future__ import annotations

import json
from pathlib import Path

import pytest

CODE = '''"""A stage of the user's own."""
from toyparts import helper
from tests.pipeline.toy_source import Config, STAGE as base
import dataclasses
def run(ctx):
    helper.work()
    return base.run(ctx)
STAGE = dataclasses.replace(base, run=run)
'''


@pytest.fixture
def ask(cli, pipeline_file: Path, target_file: Path):
    def call(verb: str, *arguments: object, expect: int = 0):
        stage = [arguments[0]] if verb == "explain" else []
        code, out, err = cli(verb, pipeline_file, *stage, "--target", target_file, *arguments[len(stage) :])
        assert code == expect, err
        return out, err

    return call


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines()]


def test_nothing_changed(ask):
    ask("run")
    said = lines(ask("explain", "second")[0])
    assert said[0].startswith("second against run ") and said[0].endswith(": nothing changed")
    assert said[1].startswith("key ") and said[1].endswith(": a result is stored") and len(said) == 2


def test_a_configuration_value_is_named_with_both_values(ask):
    ask("run")
    said = lines(ask("explain", "first", "--set", "stages.first.with.text=other")[0])
    assert said[0].endswith(": changed") and said[1] == 'config.text: "hi" -> "other"'
    assert said[2].endswith(": no result is stored, the stage runs") and len(said) == 3


def test_what_depends_on_it_waits_for_it(ask):
    ask("run")
    out = ask("explain", "second", "--set", "stages.first.with.text=other")[0]
    assert "  inputs.model: not known before first has run; explain first says why it runs\n" in out and "key " not in out
    ask("run", "--set", "stages.first.with.text=other")
    (run,) = {json.loads(ask("explain", "second", "--json")[0])["run"]}
    found = json.loads(ask("explain", "second", "--json")[0])
    assert found["changed"] == ["inputs"] and found["stored"] is True and found["run"] == run
    (change,) = found["changes"]
    assert (change["part"], change["name"], change["note"]) == ("inputs", "model", "from first.model")
    assert change["before"] != change["after"] and len(change["before"]) == 64


def test_seed_target_toolchain_and_machine(ask, pipeline_file: Path, target_file: Path):
    ask("run")
    folder = pipeline_file.parent / ".pipeline" / "runs" / "latest" / "stages" / "02-second"
    parts = json.loads((folder / "key.json").read_text())
    parts["toolchain"] = {"numpy": "1.0"}
    parts["machine"] = {"cpu": "another"}
    (folder / "key.json").write_text(json.dumps(parts))
    target_file.write_text(target_file.read_text().replace("channel_multiple: 8", "channel_multiple: 16"))
    ask("run", "--set", "seed=4", "--until", "first")
    names = sorted(p.name for p in (pipeline_file.parent / ".pipeline" / "runs").iterdir() if not p.is_symlink())
    said = lines(ask("explain", "second", "--set", "seed=4", "--against", names[0])[0])
    assert "target.channel_multiple: 8 -> 16" in said and "seed: 3 -> 4" in said
    assert 'toolchain.numpy: "1.0" -> (absent)' in said and 'machine.cpu: "another" -> (absent)' in said
    assert any(line.startswith("inputs.model: ") and line.endswith("(from first.model)") for line in said)
    assert not any(line.startswith(("code", "config", "data", "contract")) for line in said)


def test_the_modules_whose_code_changed_are_named(ask, pipeline_file: Path, tmp_path: Path, monkeypatch):
    from pipeline import code

    (tmp_path / "toyparts").mkdir()
    (tmp_path / "toyparts" / "__init__.py").write_text("")
    helper = tmp_path / "toyparts" / "helper.py"
    helper.write_text("def work() -> None:\n    return None\n")
    (tmp_path / "toystage.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    pipeline_file.write_text(pipeline_file.read_text().replace("tests.pipeline.toy_source", "toystage"))
    ask("run")
    helper.write_text('def work() -> None:\n    """Only words."""\n    return None\n')
    code._read.cache_clear()
    assert "nothing changed" in ask("explain", "first")[0]
    helper.write_text("def work() -> int:\n    return 2\n")
    code._read.cache_clear()
    assert lines(ask("explain", "first")[0])[1] == "code: toyparts.helper changed"
    (next(pipeline_file.parent.glob(".pipeline/runs/latest/stages/01-first")) / "code.json").unlink()
    said = lines(ask("explain", "first")[0])[1]
    assert said.startswith("code: ") and said.endswith("(the run did not keep its modules one by one)")


def test_what_is_asked_for_must_exist(ask, pipeline_file: Path):
    workspace = pipeline_file.parent / ".pipeline"
    _, err = ask("explain", "first", expect=2)
    hint = "run a pipeline first, or say --workspace DIR, or give a run's folder"
    assert err == f"latest: there is no run in {workspace}\nhint: {hint}\n"
    ask("run", "--until", "first")
    name = (workspace / "runs" / "latest").resolve().name
    assert ask("explain", "secnd", expect=2)[1] == "stage secnd: pipeline.yaml has no such stage\nhint: did you mean 'second'?\n"
    what = f"stage second: run {name} did not come to it\nhint: run the pipeline up to it first: run --until\n"
    assert ask("explain", "second", expect=2)[1] == what
    assert ask("explain", "first", "--against", "latst", expect=2)[1] == (
        f"latst: no such run in {workspace / 'runs'}\nhint: did you mean 'latest'?\n"
    )


def test_another_run_is_offered_when_the_latest_did_not_come_to_the_stage(ask, pipeline_file: Path):
    ask("run")
    name = (pipeline_file.parent / ".pipeline" / "runs" / "latest").resolve().name
    ask("run", "--until", "first")
    _, err = ask("explain", "second", expect=2)
    assert err.endswith(f"hint: compare with the last one that did: --against {name}\n")
    assert "nothing changed" in ask("explain", "second", "--against", name)[0]


def test_help_has_examples(cli):
    code, out, _ = cli("explain", "--help")
    assert code == 0 and out.count("Example: python -m pipeline explain") == 2
