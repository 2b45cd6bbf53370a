from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from eval.benchmark import STAGE, BenchmarkConfig, _device_script, _estimate
from eval.bundle import Bundle
from pipeline.target import TargetView, load_target
from tests.boards.bundle_example import small_bundle
from tests.eval.model_example import small_student, write_bundle


def test_the_estimate_is_for_the_threads_that_the_artifact_will_run_with(tmp_path: Path):
    write_bundle(tmp_path / "bundle", small_student())
    bundle = Bundle.open(tmp_path / "bundle")
    target = load_target("raspberry-pi-5")
    artifact = bundle.artifact()

    def estimated(**facts: int) -> dict[str, float]:
        chosen = artifact.model_copy(update={"facts": {**artifact.facts, **facts}})
        _, rows = _estimate(bundle, chosen, SimpleNamespace(target=TargetView(target, STAGE.reads_target)))
        assert {row.conditions["threads"] for row in rows} == {facts.get("threads", 1)}
        return {row.name: row.value for row in rows}

    one, four = estimated(), estimated(threads=4)
    assert one == estimated(threads=1)
    assert one["latency_p50"] > four["latency_p50"]
    assert one["latency_p90"] == pytest.approx(one["latency_p50"] * target.jitter_p90)


@pytest.mark.slow
def test_the_note_on_the_device_s_script_names_what_outlasts_the_stage(tmp_path: Path):
    bundle = Bundle.open(small_bundle(tmp_path / "bundle", "host"))
    work = tmp_path / "work"
    work.mkdir()
    note = _device_script(bundle, bundle.artifact(), SimpleNamespace(workdir=work, config=BenchmarkConfig()))
    assert note.startswith("bundle/bench.py, the bundle's own script, on this host: PASS ")
    assert "; kernel p50 " in note
    assert str(tmp_path) not in note
