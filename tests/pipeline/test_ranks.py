from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from pipeline.config import load_pipeline
from pipeline.contract import Artifact, Kind
from pipeline.errors import StageFailed, UsageError
from pipeline.plan import make_plan
from pipeline.ranks import Follower, Leader, Unheard, alone
from pipeline.stagerun import context_of
from pipeline.target import load_target

TORCHRUN = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_PORT": "1", "TORCHELASTIC_RUN_ID": "none", "GROUP_RANK": "0"}


@pytest.fixture
def plan(pipeline_file: Path, target_file: Path):
    shared = "stages.second.uses=tests.pipeline.toy_shared"
    return make_plan(pipeline_file, load_pipeline(pipeline_file, (shared, "stages.second.gates=[]")), load_target(str(target_file)))


@pytest.fixture
def store():
    from torch.distributed import HashStore

    return HashStore()


@pytest.fixture
def shared(plan, tmp_path: Path):
    """The stage that all run, its context and its log."""
    given = tmp_path / "given.txt"
    given.write_text("hello")
    workdir = tmp_path / "work"
    workdir.mkdir()
    inputs = {"model": Artifact(Kind.CHECKPOINT, given, "0" * 64, 5, {"len": 5})}
    return plan.stages[1], context_of(plan, plan.stages[1], inputs, workdir, Unheard()), tmp_path / "log.txt"


def test_torchrun_is_hidden_and_comes_back(monkeypatch):
    for name, value in {**TORCHRUN, "RANKING": "5"}.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with alone():
        assert not TORCHRUN.keys() & os.environ.keys() and os.environ["RANKING"] == "5"
    assert dict(os.environ) == before


def test_a_single_process_of_torchrun_runs_as_ever(monkeypatch, cli, pipeline_file: Path, target_file: Path):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    code, out, err = cli("run", pipeline_file, "--target", target_file)
    assert code == 0 and out.count("run directory: ") == 1, err


def test_the_leader_waits_until_the_others_have_taken_part(plan, store, shared):
    leader, follower, after = Leader(store, 2), Follower(store, 1), threading.Event()

    def lead() -> None:
        with leader.stage(*shared):
            pass
        after.set()
        leader.end(0)

    thread = threading.Thread(target=lead)
    thread.start()
    assert not after.wait(0.5)
    follower.follow(plan)
    assert follower.leave() == 0 and after.is_set()
    thread.join()
    assert (shared[1].workdir / "rank0.txt").read_text() == "hello", "the follower ran the stage, with the leader's inputs"


def test_a_stage_for_one_is_not_shared(plan, store, shared, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    leader = Leader(store, 2)
    with leader.stage(plan.stages[0], shared[1], shared[2]):
        assert "WORLD_SIZE" not in os.environ
    assert not store.check(["stage/0"])
    leader.end(3)


def test_a_follower_refuses_a_workspace_that_it_does_not_see(plan, store):
    message = {"stage": "second", "workdir": "/nowhere/work", "inputs": {}, "log": "/nowhere/log"}
    store.set("stage/0", json.dumps(message))
    with pytest.raises(UsageError, match=r"^process 3: does not see /nowhere/work\nhint: give a --workspace that every machine sees"):
        Follower(store, 3).follow(plan)


def test_the_first_failure_is_kept(store):
    for rank in (2, 1):
        Follower(store, rank).fail(StageFailed(f"process {rank}", "broke", "mend it"))
    assert json.loads(store.get("failed"))["where"] == "process 2"


@pytest.mark.parametrize(("rank", "lines"), [("0", 2), ("1", 0)])
def test_of_several_processes_the_first_alone_says_what_is_wrong(monkeypatch, cli, rank: str, lines: int):
    for name, value in {**TORCHRUN, "RANK": rank, "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    code, _, err = cli("run", "--no-such-option")
    assert (code, len(err.splitlines())) == (2, lines)
    code, _, err = cli("targets")
    assert (code, len(err.splitlines())) == (2, lines) and ("'targets' works in one process" in err) == (lines > 0)
