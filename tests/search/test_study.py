from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from pipeline.errors import ToolchainMissing, UsageError
from search.space import suggest
from search.study import INTERRUPTED, finished, open_study
from tests.search.small import pipeline_text, pipeline_tree

BUSY = {"width": [8, 16, 24, 32], "growth": [[1, 2], [1, 2, 3]], "kernel": [3, 5], "se": [0, 1], "prune": [0, 0.2, 0.4]}


def draw(problem, study, count: int) -> list[dict]:
    """Picks of ``count`` trials, told values that follow from them."""
    drawn = []
    for _ in range(count):
        trial = study.ask()
        drawn.append(suggest(problem.space, trial))
        gain, ms = drawn[-1]["width"] / 8 + drawn[-1]["prune"], drawn[-1]["width"] * drawn[-1]["kernel"]
        trial.set_constraint("latency", ms / 80 - 1)
        study.tell(trial, (gain, ms))
    return drawn


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_the_same_seed_draws_the_same_trials_also_when_resumed(problem_of, study_of, sampler: str):
    problem = problem_of(space=BUSY | {"sampler": sampler})
    whole = draw(problem, open_study(problem, "sqlite://", "in memory"), 13)
    parts = draw(problem, study_of(problem), 3) + draw(problem, study_of(problem), 10)
    assert parts == whole
    assert len({str(d) for d in whole}) > 10, "the draws differ from one another"
    other = replace(problem, plan=replace(problem.plan, seed=8))
    assert draw(other, open_study(other, "sqlite://", "other"), 13) != whole


def test_tpe_learns_from_the_trials(problem_of):
    problem = problem_of(space=BUSY)
    drawn = draw(problem, open_study(problem, "sqlite://", "in memory"), 40)
    late = [d["width"] * d["kernel"] <= 80 for d in drawn[20:]]
    assert sum(late) > 0.8 * len(late), "it keeps to the limits"


def changed(name: str, problem_of):
    tree = pipeline_tree()
    if name == "pipeline":
        tree["stages"]["student"]["with"] = {"train": {"steps": 5, "crop": 64}}
    if name == "data":
        tree["data"]["train"]["count"] = 4
    return problem_of(
        pipeline_text(tree),
        target="host" if name == "target" else "jetson-xavier",
        steps=5 if name == "number of proxy steps" else 4,
        space={"width": [8]} if name == "search space" else None,
    )


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("pipeline", ""),
        ("data", ""),
        ("target", " (jetson-xavier, now host)"),
        ("search space", ""),
        ("number of proxy steps", " (4, now 5)"),
    ],
)
def test_a_study_of_something_else_is_refused(problem_of, study_of, tmp_path: Path, name: str, shown: str):
    study_of(problem_of())
    with pytest.raises(UsageError) as e:
        study_of(changed(name, problem_of))
    where = f"study 'search' in sqlite:///{tmp_path / 'study.db'}"
    hint = "start a new one with --study NAME, or in another --storage"
    assert str(e.value) == f"{where}: was begun with another {name}{shown}\nhint: {hint}"


def test_comments_and_the_file_s_place_change_nothing(problem_of, study_of):
    study_of(problem_of())
    study_of(problem_of("# a comment\n" + pipeline_text()))


def test_a_study_of_another_program_is_refused(problem_of, study_of, tmp_path: Path):
    made = optuna.create_study(storage=f"sqlite:///{tmp_path / 'study.db'}", study_name="search")
    made.tell(made.ask(), 1.0)
    with pytest.raises(UsageError, match=r"study 'search' in sqlite.* was not made by this command\nhint: start a new one"):
        study_of(problem_of())


def test_several_machines_share_a_journal(problem_of, tmp_path: Path):
    problem = problem_of()
    url = f"journal:{tmp_path / 'shared' / 'study.log'}"
    first, second = open_study(problem, url, "search"), open_study(problem, url, "search")
    draw(problem, first, 2)
    draw(problem, second, 1)
    assert [t.number for t in finished(first)] == [0, 1, 2] == [t.number for t in finished(second)]


def test_interrupted_trials_do_not_count(problem_of, study_of):
    problem = problem_of()
    study = study_of(problem)
    draw(problem, study, 1)
    trial = study.ask()
    assert len(finished(study)) == 1
    trial.set_user_attr(INTERRUPTED, True)
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    assert len(finished(study)) == 1


@pytest.mark.parametrize(
    ("url", "kind", "message"),
    [
        (
            "nodb://x/y",
            UsageError,
            "--storage nodb://x/y: cannot be opened (Can't load plugin: sqlalchemy.dialects:nodb)\nhint: e.g. sqlite:////",
        ),
        ("words", UsageError, "--storage words: cannot be opened (Could not parse SQLAlchemy URL"),
        ("sqlite:////proc/no/study.db", UsageError, "--storage sqlite:////proc/no/study.db: cannot be opened ([Errno 2]"),
        ("sqlite:///{file}", UsageError, "cannot be opened ((sqlite3.DatabaseError) file is not a database)"),
        ("journal:{file}", UsageError, "is no journal of Optuna's\nhint: name a new file"),
        ("oracle://u@h/x", ToolchainMissing, "--storage oracle://u@h/x: needs a package that is not installed ("),
    ],
)
def test_a_storage_that_cannot_be_opened(problem_of, tmp_path: Path, url: str, kind: type, message: str):
    (tmp_path / "file.txt").write_text("just words, " * 20)
    with pytest.raises(kind) as e:
        open_study(problem_of(), url.replace("{file}", str(tmp_path / "file.txt")), "search")
    assert message in str(e.value) and "\nhint: " in str(e.value)
    assert (tmp_path / "file.txt").read_text() == "just words, " * 20, "somebody's file is left alone"


def test_without_optuna_the_line_that_installs_it_is_shown(problem_of, monkeypatch):
    problem = problem_of()
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ToolchainMissing) as e:
        open_study(problem, "sqlite://", "search")
    assert str(e.value).startswith("search: optuna is not installed (") and str(e.value).endswith("\nhint: pip install 'optuna>=5,<6'")
