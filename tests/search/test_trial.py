from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from models import checkpoint
from models.arch import build
from pipeline.contract import Artifact, Kind
from pipeline.serial import measurements_from_json
from pipeline.store import hash_file
from search.candidate import candidate, planned
from search.problem import Limits
from search.stages import Some, shortened
from search.study import INTERRUPTED, finished
from search.trial import REASON, ROWS, SAME, Trials
from tests.search.small import Quiet, pipeline_text, pipeline_tree

TEACHER = {"width": 4, "enc_blk_nums": [1], "middle_blk_num": 1, "dec_blk_nums": [1]}


class Stop(Quiet):
    def update(self, label, done, total, **scalars):
        raise KeyboardInterrupt


class Sealed:
    """A test set that must not be looked at."""

    def __getattr__(self, name):
        raise AssertionError(f"the test set was asked for its {name}")

    __len__ = __getitem__ = lambda self, *_: self.__getattr__("pairs")


@pytest.fixture
def trials_of(tmp_path: Path, study_of):
    teacher = tmp_path / "teacher.safetensors"
    checkpoint.save(teacher, build("nafnet", TEACHER), "nafnet", history=[])
    before = {"guide.model": Artifact(Kind.CHECKPOINT, teacher, hash_file(teacher), teacher.stat().st_size)}

    def make(problem, progress=Quiet, name="search"):
        said: list[str] = []
        plan = replace(problem.plan, data={**problem.plan.data, "test": Sealed()})
        trials = Trials(
            replace(problem, plan=plan), study_of(problem, name), before, tmp_path / "trials", lambda *_: progress(), said.append
        )
        return trials, said

    return make


def test_a_trial_is_trained_and_judged_on_the_calibration_set(problem_of, trials_of, picked, tmp_path: Path):
    trials, said = trials_of(problem_of())
    trials.study.enqueue_trial(picked | {"depth_0": 0, "decoder_depth": 0, "unshuffle": 4, "se": 0})
    trials.run()
    (trial,) = trials.study.trials
    rows = {m.name: m for m in measurements_from_json(trial.user_attrs[ROWS])}
    assert trial.state.name == "COMPLETE" and trial.values == [rows["psnr_gain"].value, rows["latency_p50"].value]
    gain = rows["psnr_gain"]
    assert (gain.samples, str(gain.evidence), gain.conditions["split"], gain.conditions["proxy_steps"]) == (2, "host", "calibrate", 4)
    assert rows["latency_p50"].evidence == "estimated" and trial.constraints["latency"] < 0 and trial.constraints["size"] < 0
    assert said[0].startswith("trial 0: ") and " dB on 2 images here, " in said[0] and "ms estimated: 16x(1,2)" in said[0]
    assert not list((tmp_path / "trials" / "work").glob("*/")), "nothing is left behind"


def test_the_same_trial_gives_the_same_numbers_and_is_not_trained_twice(problem_of, trials_of, tmp_path: Path):
    problem = problem_of(
        space={
            "growth": [[1, 2]],
            "width": [8],
            "blocks": ["fused"],
            "activation": ["relu"],
            "se": [0],
            "prune": [0],
            "precision": ["float"],
        }
    )
    trials, said = trials_of(problem)
    trials.run()
    trials.run()
    again, _ = trials_of(problem, name="again")
    again.run()
    first, second, third = *trials.study.trials, *again.study.trials
    assert first.values == second.values == third.values
    assert second.user_attrs[SAME] == 0 and SAME not in third.user_attrs
    assert said[1].startswith("trial 1: the same as trial 0: 8x(1,2)")
    assert second.user_attrs[ROWS] == first.user_attrs[ROWS] and second.constraints == first.constraints


def test_a_hopeless_trial_is_not_trained(problem_of, trials_of, tmp_path: Path):
    problem = replace(problem_of(space={"prune": [0]}), limits=Limits(0.01, 1.2, 0.001))
    trials, said = trials_of(problem, Stop)
    trials.run()
    (trial,) = trials.study.trials
    assert trial.state.name == "PRUNED" and min(trial.constraints.values()) > 1
    assert said == [f"trial 0: {trial.user_attrs[REASON]}"]
    assert trial.user_attrs[REASON].startswith("not trained: p90 estimated for jetson-xavier is ")
    assert trial.user_attrs[REASON].endswith(" ms, more than 1.2 x the budget of 0.01 ms")
    assert len(finished(trials.study)) == 1 and not list((tmp_path / "trials" / "work").glob("*/"))


def crop_does_not_fit(tree: dict) -> None:
    tree["stages"]["student"]["with"]["train"] = {"steps": 4, "crop": 20}


def diverges(tree: dict) -> None:
    tree["stages"]["student"]["with"]["train"] = {"steps": 400, "crop": 32, "batch": 1, "lr": 1e30, "min_lr": 1e30, "warmup": 0, "clip": 0}


def breaks(tree: dict) -> None:
    tree["stages"]["own"] = {"uses": "tests.search.toy_broken", "needs": {"model": "student.model"}}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (crop_does_not_fit, "failed: distill: train.crop: 20 is no multiple of"),
        (diverges, "failed: distill: "),
        (breaks, "failed: RuntimeError: a bug of the user's own (traceback in "),
    ],
)
def test_a_trial_that_fails_says_why_and_the_study_goes_on(problem_of, trials_of, tmp_path: Path, change, reason: str):
    tree = pipeline_tree()
    change(tree)
    trials, said = trials_of(problem_of(pipeline_text(tree), space={"prune": [0]}))
    trials.run()
    (trial,) = trials.study.trials
    assert trial.state.name == "FAIL" and trial.user_attrs[REASON].startswith(reason), trial.user_attrs
    assert said == [f"trial 0: {trial.user_attrs[REASON]}"] and "\n" not in said[0]
    assert len(finished(trials.study)) == 1
    if "traceback" in reason:
        assert "second line" in (tmp_path / "trials" / "trial-0.log").read_text()


def test_an_interrupted_trial_is_taken_up_again(problem_of, trials_of):
    problem = problem_of()
    trials, _ = trials_of(problem, Stop)
    with pytest.raises(KeyboardInterrupt):
        trials.run()
    first, waiting = trials.study.trials
    assert (first.state.name, first.user_attrs[INTERRUPTED], waiting.state.name) == ("FAIL", True, "WAITING")
    assert finished(trials.study) == []
    resumed, _ = trials_of(problem)
    resumed.run()
    taken = resumed.study.trials[1]
    assert taken.state.name == "COMPLETE" and taken.params == first.params and len(resumed.study.trials) == 2


def test_every_training_is_cut_alike_and_nothing_retreats(problem_of, picked):
    problem = problem_of()
    tree = candidate(problem, picked)
    for id_ in ("thin", "small"):
        config = planned(problem, tree, id_).config
        short = shortened(config, 0.5)
        assert short.recover.train.steps == 2 and config.recover.train.steps == 4
        assert short.recover.train.model_copy(update={"steps": 4}) == config.recover.train
        assert (short.min_speedup, short.max_drop) == (0.0, 1000.0)
    assert shortened(problem.student.config, 0.01).train.steps == 1


def test_some_pairs_are_the_first_ones(problem_of):
    source = problem_of().plan.data["train"]
    some = Some(source, 2)
    assert [p.name for p in some] == [source[0].name, source[1].name] and len(some) == 2
    assert len(Some(source, 99)) == len(source) == 3
    assert (some.digest(), some.scenes()) == (source.digest(), source.scenes())
