"""Folders that stages and runs have in common: held while in use, dropped the oldest first, collected as garbage."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from pipeline.collect import drop, find_garbage
from pipeline.config import load_pipeline
from pipeline.contract import StageContext
from pipeline.plan import make_plan
from pipeline.ranks import Follower, Leader, Unheard
from pipeline.shared import drop as drop_shared
from pipeline.shared import hold, last_used, make_room
from pipeline.stagerun import context_of, guarded
from pipeline.store import size_of
from pipeline.target import load_target


def filled(folder: Path, size: int = 100, age: float = 0.0) -> Path:
    with hold(folder):
        (folder / "content").write_bytes(b"x" * size)
    long_ago = time.time() - age
    os.utime(folder.with_name(f"{folder.name}.use"), (long_ago, long_ago))
    return folder


def test_a_folder_that_is_held_is_not_dropped(tmp_path):
    folder = filled(tmp_path / "what" / "one")
    with hold(folder), hold(folder):
        assert drop_shared(folder) == 0
        assert (folder / "content").exists()
    assert drop_shared(folder) == 100
    assert not folder.exists()
    with hold(folder):  # and comes again
        assert folder.is_dir()


def test_holding_is_using(tmp_path):
    folder = filled(tmp_path / "one", age=1000)
    assert time.time() - last_used(folder) > 900
    hold(folder).close()
    assert time.time() - last_used(folder) < 100


def test_room_is_made_by_the_least_recently_used_first(tmp_path):
    old, older, held = (filled(tmp_path / n, age=a) for n, a in (("old", 10), ("older", 20), ("held", 30)))
    mine = filled(tmp_path / "mine", 1000)
    make_room(mine, 50, 350)
    assert all(p.exists() for p in (old, older, held, mine))
    with hold(held):
        os.utime(tmp_path / "held.use", (0, 0))
        make_room(mine, 50, 300)
        assert (old.exists(), older.exists(), held.exists()) == (True, False, True)
        make_room(mine, 1000, 300)
    assert (old.exists(), held.exists(), mine.exists()) == (False, True, True)


def test_a_file_that_another_process_removes_meanwhile_does_not_count(tmp_path, monkeypatch):
    folder, stat = filled(tmp_path / "one"), Path.stat
    for name in ("early", "late"):
        (folder / name).write_bytes(b"x" * 7)

    def racing(path: Path, **options):
        if path.name == "early":
            path.unlink(missing_ok=True)
        found = stat(path, **options)
        if path.name == "late":
            path.unlink()
        return found

    monkeypatch.setattr(Path, "stat", racing)
    assert size_of(folder) == 107
    assert size_of(folder) == 100
    assert size_of(tmp_path / "gone") == 0


def test_a_stage_without_a_shared_folder_keeps_things_in_its_own(tmp_path):
    given = {"config": None, "inputs": {}, "target": None, "data": {}, "seed": 1, "progress": None}
    assert StageContext(**given, workdir=tmp_path / "work").keep("answers") == tmp_path / "work" / "answers"
    assert StageContext(**given, workdir=tmp_path / "work", shared=tmp_path / "s").keep("answers") == tmp_path / "s" / "answers"


def test_a_run_gives_its_stages_the_store_s(cli, pipeline_file: Path, target_file: Path, monkeypatch):
    seen = []
    monkeypatch.setattr("pipeline.runner.guarded", lambda stage, context, log: seen.append(context.shared) or guarded(stage, context, log))
    code, _, err = cli("run", pipeline_file, "--target", target_file)
    assert code == 0, err
    assert seen == [(pipeline_file.parent / ".pipeline" / "store" / "shared").resolve()] * 2


@pytest.mark.parametrize("given", [True, False])
def test_the_other_processes_of_a_run_see_the_first_one_s(pipeline_file: Path, target_file: Path, tmp_path, monkeypatch, given):
    from torch.distributed import HashStore

    settings = ("stages.second.uses=tests.pipeline.toy_shared", "stages.second.gates=[]")
    plan = make_plan(pipeline_file, load_pipeline(pipeline_file, settings), load_target(str(target_file)))
    store, seen, shared, stage = HashStore(), [], tmp_path / "shared" if given else None, plan.stages[1]
    monkeypatch.setattr("pipeline.ranks.guarded", lambda _stage, context, _log: seen.append(context.shared))
    leader, follower = Leader(store, 2), Follower(store, 1)
    context = context_of(plan, stage, {}, tmp_path, Unheard(), shared)
    store.set("done/0/1", "")
    with leader.stage(stage, context, tmp_path / "log.txt"):
        pass
    store.set("end", "0")
    follower.follow(plan)
    leader.end(1)
    assert seen == [shared]


def test_garbage_is_what_no_kept_run_can_have_used(cli, pipeline_file: Path, target_file: Path):
    workspace, runs = pipeline_file.parent / ".pipeline", []
    for text in ("one", "two"):
        code, _, err = cli("run", pipeline_file, "--target", target_file, "--set", f"stages.first.with.text={text}")
        assert code == 0, err
        runs.append((workspace / "runs" / "latest").resolve())
    answers = workspace / "store" / "shared" / "answers"
    unused, used = filled(answers / "unused", 70, age=500), filled(answers / "used")
    began = time.time() - 300
    os.utime(runs[0] / "run.json", (began, began))
    assert [(i.kind, i.path.name, i.bytes) for i in find_garbage(workspace).items] == [("shared", "unused", 70)]
    with hold(unused):
        os.utime(answers / "unused.use", (0, 0))
        assert drop(find_garbage(workspace), workspace) == 0 and unused.exists()
    os.utime(answers / "unused.use", (0, 0))
    code, out, _ = cli("gc", "--workspace", workspace, "--yes", "--json")
    assert code == 0 and json.loads(out)["bytes"] == 70
    assert not unused.exists() and used.exists()
    os.utime(answers / "used.use", (began, began))
    found = [i for i in find_garbage(workspace, keep=1).items if i.kind == "shared"]
    assert [i.path for i in found] == [used], "the run that may have used it is not kept"
