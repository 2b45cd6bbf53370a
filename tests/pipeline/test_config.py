from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import Gate, load_pipeline
from pipeline.errors import UsageError
from pipeline.yamlfile import validate


def test_a_file_becomes_typed_configuration(pipeline_file: Path):
    file = load_pipeline(pipeline_file)
    assert (file.seed, list(file.stages)) == (3, ["first", "second"])
    assert file.stages["second"].needs == {"model": "first.model"}
    assert file.stages["second"].gates[0].rule == "drop_at_most"


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("seed=7", lambda f: f.seed == 7),
        ("stages.first.with.text=bye", lambda f: f.stages["first"].config == {"text": "bye"}),
        ("stages.second.with.drop=1e-2", lambda f: f.stages["second"].config == {"drop": 0.01}),
        ("stages.second.with.train.lr=0.1", lambda f: f.stages["second"].config == {"train": {"lr": 0.1}}),
        ("stages.first.gates.0.at_least=28", lambda f: f.stages["first"].gates[0].at_least == 28),
        ("stages.first.gates=[]", lambda f: f.stages["first"].gates == ()),
    ],
)
def test_overrides(pipeline_file: Path, override: str, read):
    assert read(load_pipeline(pipeline_file, (override,)))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "--set seed: is not of the form path=value\nhint: e.g. --set stages.prune.with.ratio=0.3"),
        ("stages.frist.with.text=1", "--set stages.frist.with.text=1: there is no 'stages.frist' in the file\nhint: did you mean 'first'?"),
        (
            "stages.first.gates.4.at_least=1",
            "--set stages.first.gates.4.at_least=1: 'stages.first.gates.4' does not name an item of a list of 1\n"
            "hint: use an index from 0 to 0",
        ),
        ("sed=1", "pipeline.yaml: sed: unknown key\nhint: did you mean 'seed'?"),
        ("stages.first.nedes={}", "pipeline.yaml: stages.first.nedes: unknown key\nhint: did you mean 'needs'?"),
    ],
)
def test_wrong_overrides(pipeline_file: Path, override: str, message: str):
    with pytest.raises(UsageError) as e:
        load_pipeline(pipeline_file, (override,))
    assert str(e.value) == message


@pytest.mark.parametrize(
    ("gate", "problem"),
    [
        ({"metric": "psnr"}, "give exactly one of at_least, at_most, drop_at_most, gain_at_least"),
        ({"metric": "psnr", "at_least": 1, "at_most": 2}, "give exactly one of"),
        ({"metric": "psnr", "drop_at_most": 1}, "'against' goes with drop_at_most"),
        ({"metric": "psnr", "at_least": 1, "against": "a"}, "'against' goes with drop_at_most"),
        ({"metric": "psnr", "at_least": "budget"}, "a bound is a number or target.<field>"),
        ({"metric": "psnr", "at_least": float("nan")}, "a bound is a finite number"),
        ({"metric": "psnr", "drop_at_most": float("inf"), "against": "a"}, "a bound is a finite number"),
    ],
)
def test_a_gate_has_one_rule(gate: dict, problem: str):
    with pytest.raises(UsageError, match=problem):
        validate(Gate, gate, "p.yaml")


@pytest.mark.parametrize(
    ("stages", "problem"),
    [
        ("{}", "should have at least 1 item"),
        ("{a: {needs: {model: b}}}", r"'b' is not of the form stage\.output"),
        ("{'a/b': {}}", "characters other than letters"),
    ],
)
def test_stage_entries(tmp_path: Path, stages: str, problem: str):
    path = tmp_path / "p.yaml"
    path.write_text(f"version: 1\ndata: {{}}\nstages: {stages}\n")
    with pytest.raises(UsageError, match=problem):
        load_pipeline(path)
