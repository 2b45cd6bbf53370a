from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.target import TargetView, known_targets, load_target
from pipeline.targetfile import render
from pipeline.yamlfile import parse_yaml


def write(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_a_file_without_the_newer_fields_loads(target_file):
    target = load_target(str(target_file))
    assert (target.jetpack, target.memory_gb, target.power_modes, target.runtimes) == ("", 0, (), {})
    assert target.recognise.model == ""
    assert target.rates["cpu"].calibrations == ()


def test_extending_a_shipped_target_takes_over_all_that_is_not_said(tmp_path):
    mine = load_target(write(tmp_path, "extends: jetson-xavier\nname: mine\nframe: {width: 640}\nrates: {gpu: {launch_us: 9}}\n"))
    base = load_target("jetson-xavier")
    assert (mine.name, mine.frame.width, mine.frame.height) == ("mine", 640, base.frame.height)
    assert mine.rates["gpu"].launch_us == 9
    assert mine.rates["gpu"].macs == base.rates["gpu"].macs
    assert mine.rates["cpu"] == base.rates["cpu"]


def test_lists_are_replaced_not_merged(tmp_path):
    mine = load_target(write(tmp_path, "extends: jetson-xavier\nbackends: [{use: onnxruntime, runs_on: cpu, precisions: [fp32]}]\n"))
    assert [b.use for b in mine.backends] == ["onnxruntime"]


def test_a_path_extends_relative_to_its_file(tmp_path, target_file):
    assert load_target(write(tmp_path, "extends: board.yaml\nname: other\n")).cpu.mcpu == "cortex-a76"


def test_a_key_that_is_none_is_named_through_extends(tmp_path):
    with pytest.raises(UsageError, match=r"rates\.gpu\.bandwith_gbs.*\n.*bandwidth_gbs"):
        load_target(write(tmp_path, "extends: jetson-xavier\nrates: {gpu: {bandwith_gbs: 1}}\n"))


def test_extending_nothing_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"extends: there is no target 'jetson-xavie'\nhint: did you mean 'jetson-xavier'\?"):
        load_target(write(tmp_path, "extends: jetson-xavie\n"))


def test_extending_in_a_circle_is_refused(tmp_path):
    with pytest.raises(UsageError, match="extend each other without an end"):
        load_target(write(tmp_path, "extends: mine.yaml\n"))


@pytest.mark.parametrize("field", ["model: 'Jetson ('", "android: {ro.x: '['}"])
def test_a_pattern_that_is_none_is_refused(tmp_path, field):
    with pytest.raises(UsageError, match="is no regular expression"):
        load_target(write(tmp_path, f"extends: jetson-xavier\nrecognise: {{{field}}}\n"))


@pytest.mark.parametrize("like", known_targets())
def test_a_new_target_loads_at_once_and_is_no_host(tmp_path, like):
    mine = load_target(write(tmp_path, render("my-board", load_target(like), "mine.yaml")))
    base = load_target(like)
    assert (mine.name, mine.is_host, mine.recognise.model) == ("my-board", False, "")
    same = {"name", "title", "is_host", "recognise"}
    assert mine.model_dump(exclude=same) == base.model_dump(exclude=same)


def test_a_new_target_says_what_every_field_means():
    lines = render("my-board", load_target("jetson-xavier"), "./my-board.yaml").splitlines()
    assert "--target ./my-board.yaml" in lines[0]
    fields = [line for line in lines if line.startswith("    ") and ": " in line and "{" not in line]
    assert fields
    assert all(" # " in line for line in fields), fields


def test_new_writes_a_file_and_no_second_time(tmp_path, cli):
    out = tmp_path / "my-board.yaml"
    code, said, _ = cli("targets", "--new", "my-board", "--like", "jetson-nano", "--out", out)
    assert (code, f"--target {out}" in said) == (0, True)
    assert parse_yaml(out.read_text(), "")["opset"] == 13
    code, _, err = cli("targets", "--new", "my-board", "--out", out)
    assert code == 2
    assert "is there already" in err
    assert "give another --out" in err


def test_a_bad_name_is_refused(tmp_path, cli):
    code, _, err = cli("targets", "--new", "My Board", "--out", tmp_path / "x.yaml")
    assert (code, "'My Board' is no name for a target" in err) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_one_target_in_detail(cli):
    code, out, _ = cli("targets", "jetson-xavier-nx")
    assert code == 0
    for said in ("sm_72", "8.5.2 int8 fp16 on the gpu", "opset <= 17", "2 DLA", "8 MODE_20W_6CORE", "Python 3.8", "1280x720 in 33.3 ms"):
        assert said in out


def test_one_target_as_json(cli):
    code, out, _ = cli("targets", "jetson-nano", "--json")
    assert (code, json.loads(out)["opset"]) == (0, 13)


def test_an_unknown_target_names_the_nearest(cli):
    code, _, err = cli("targets", "jetson-nanoo")
    assert (code, "did you mean 'jetson-nano'?" in err) == (2, True)


def test_what_a_stage_does_not_declare_stays_out_of_its_key(tmp_path):
    base = load_target("jetson-xavier")
    other = base.model_copy(update={"memory_gb": 1.0, "power_modes": ()})
    fields = ("cpu.cores", "rates")
    assert TargetView(base, fields).key() == TargetView(other, fields).key()
