from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import key, plan
from pipeline.config import load_pipeline
from pipeline.contract import Kind
from pipeline.errors import UsageError
from pipeline.target import load_target

HEAD = "version: 1\ndata: {}\nstages:\n"
SOURCE, NEXT = "tests.pipeline.toy_source", "tests.pipeline.toy_next"


@pytest.fixture
def planned(tmp_path: Path, target_file: Path):
    def make(stages: str, *overrides: str) -> plan.Plan:
        path = tmp_path / "p.yaml"
        path.write_text(HEAD + "".join(f"  {line}\n" for line in stages.splitlines()))
        return plan.make_plan(path, load_pipeline(path, overrides), load_target(str(target_file)))

    return make


def test_order_follows_needs(planned):
    made = planned(f"b: {{uses: {NEXT}, needs: {{model: a.model}}}}\na: {{uses: {SOURCE}}}\nc: {{uses: {SOURCE}}}")
    assert [s.id for s in made.stages] == ["a", "b", "c"]
    assert made.stages[0].title == "A stage for tests: writes a file whose text is decided by its configuration."


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (
            f"a: {{uses: {NEXT}, needs: {{model: b.model}}}}\nb: {{uses: {NEXT}, needs: {{model: a.model}}}}",
            "p.yaml: stages: the stages need each other in a circle: a -> b -> a\nhint: remove one of these 'needs'",
        ),
        ("a: {uses: prune.stag}", "p.yaml: stages.a.uses: there is no stage module 'prune.stag'\nhint: did you mean 'prune.stage'?"),
        ("a: {uses: pipeline.errors}", "p.yaml: stages.a.uses: module 'pipeline.errors' exports no STAGE"),
        (f"a: {{uses: {SOURCE}, with: {{txt: 1}}}}", "p.yaml: stages.a.with.txt: unknown key\nhint: did you mean 'text'?"),
        (f"a: {{uses: {NEXT}}}", f"p.yaml: stages.a.needs.model: {NEXT} needs this input\nhint: add 'model: <stage>.<output>'"),
        (
            f"a: {{uses: {SOURCE}}}\nb: {{uses: {NEXT}, needs: {{modle: a.model}}}}",
            f"p.yaml: stages.b.needs.modle: {NEXT} takes no input 'modle'\nhint: did you mean 'model'?",
        ),
        (
            f"first: {{uses: {SOURCE}}}\nb: {{uses: {NEXT}, needs: {{model: frst.model}}}}",
            "p.yaml: stages.b.needs.model: there is no stage 'frst'\nhint: did you mean 'first'?",
        ),
        (
            f"a: {{uses: {SOURCE}}}\nb: {{uses: {NEXT}, needs: {{model: a.modl}}}}",
            "p.yaml: stages.b.needs.model: stage 'a' has no output 'modl'\nhint: did you mean 'model'?",
        ),
        (
            f"a: {{uses: {SOURCE}, gates: [{{metric: psnr, drop_at_most: 1, against: z}}]}}",
            "p.yaml: stages.a.gates.0.against: 'z' is not a stage that 'a' builds on",
        ),
        (
            f"a: {{uses: {SOURCE}, gates: [{{metric: latency_p90, at_most: target.latency_budget}}]}}",
            "p.yaml: stages.a.gates.0.at_most: the target has no number 'latency_budget'\nhint: did you mean 'latency_budget_ms'?",
        ),
        (
            f"a: {{uses: {SOURCE}, with: {{weights: no.bin}}}}",
            "p.yaml: stages.a.with.weights: no such file 'no.bin'\nhint: give a path",
        ),
    ],
)
def test_what_does_not_fit_is_named(planned, stages: str, message: str):
    with pytest.raises(UsageError) as e:
        planned(stages)
    assert str(e.value).startswith(message)


def test_an_unknown_target(tmp_path: Path):
    with pytest.raises(UsageError) as e:
        load_target("jetson-xavie")
    assert str(e.value) == "--target: unknown target 'jetson-xavie'\nhint: did you mean 'jetson-xavier'?"
    with pytest.raises(UsageError, match="no such file"):
        load_target(str(tmp_path / "t.yaml"))


def parts(made: plan.Plan, number: int = 0, **inputs: str) -> dict:
    return key.key_parts(made, made.stages[number], inputs)


def test_the_key_changes_with_what_can_change_the_bytes(planned, tmp_path: Path):
    stages = f"a: {{uses: {SOURCE}}}"
    (tmp_path / "w1.bin").write_text("one")
    (tmp_path / "w2.bin").write_text("two")
    keys = {
        "base": key.key_of(parts(planned(stages))),
        "config": key.key_of(parts(planned(stages, "stages.a.with.text=x"))),
        "seed": key.key_of(parts(planned(stages, "seed=1"))),
        "input": key.key_of(parts(planned(stages), model="00")),
        "file": key.key_of(parts(planned(stages, "stages.a.with.weights=w1.bin"))),
        "other file": key.key_of(parts(planned(stages, "stages.a.with.weights=w2.bin"))),
    }
    assert len(set(keys.values())) == len(keys)
    assert all(len(k) == 64 for k in keys.values())


def test_the_key_does_not_change_with_names_places_and_gates(planned, tmp_path: Path):
    (tmp_path / "w1.bin").write_text("one")
    (tmp_path / "w3.bin").write_text("one")
    base = key.key_of(parts(planned(f"a: {{uses: {SOURCE}}}", "stages.a.with.weights=w1.bin")))
    assert base == key.key_of(parts(planned(f"b: {{uses: {SOURCE}}}", "stages.b.with.weights=w3.bin")))
    gated = f"a: {{uses: {SOURCE}, gates: [{{metric: psnr, at_least: 1}}]}}"
    assert base == key.key_of(parts(planned(gated, "stages.a.with.weights=w1.bin")))


def test_only_declared_target_fields_enter_the_key(planned, target_file: Path):
    stages = f"a: {{uses: {SOURCE}}}\nb: {{uses: {NEXT}, needs: {{model: a.model}}}}"
    text = target_file.read_text()
    base = key.key_of(parts(planned(stages), 1))
    target_file.write_text(text.replace("latency_budget_ms: 33.3", "latency_budget_ms: 10"))
    assert base == key.key_of(parts(planned(stages), 1))
    target_file.write_text(text.replace("channel_multiple: 8", "channel_multiple: 16"))
    assert base != key.key_of(parts(planned(stages), 1))


def test_what_a_stage_writes_where_a_backend_s_option_says_leaves_its_key_alone(planned, target_file: Path, tmp_path: Path):
    records, text = tmp_path / "records", target_file.read_text()

    def compiled(trials: int) -> str:
        options = f"precisions: [fp32, int8], options: {{tune: {{records: {records}, trials: {trials}}}}}"
        target_file.write_text(text.replace("precisions: [fp32, int8]", options))
        made = planned(f"a: {{uses: {SOURCE}}}")
        spec = replace(made.stages[0].spec, reads_target=("backends",), produces={"engine": Kind.ENGINE})
        return key.key_of(key.key_parts(made, replace(made.stages[0], spec=spec), {}))

    before = compiled(3)
    records.mkdir()
    (records / "a.json").write_text("one")
    assert compiled(3) == before
    assert compiled(4) != before


def test_a_golden_key_guards_against_silent_changes_of_the_key_format():
    assert key.key_of({"a": 1, "b": [1.5, None, "x"]}) == "51824779aebdb7dec1ca0574e25433dfe570903cfe9d73866ea37d41bd874470"
