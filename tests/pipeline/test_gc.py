from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from pipeline.collect import drop, find_garbage
from pipeline.store import Store


@pytest.fixture
def workspace(pipeline_file: Path) -> Path:
    return pipeline_file.parent / ".pipeline"


@pytest.fixture
def run(cli, pipeline_file: Path, target_file: Path, workspace: Path):
    """Run the pipeline with a text of the first stage; returns the run's folder."""

    def call(text: str, expect: int = 0, *more: str) -> Path:
        code, _, err = cli("run", pipeline_file, "--target", target_file, "--set", f"stages.first.with.text={text}", *more)
        assert code == expect, err
        return (workspace / "runs" / "latest").resolve()

    return call


@pytest.fixture
def gc(cli, workspace: Path):
    def call(*arguments: object) -> dict:
        code, out, err = cli("gc", "--workspace", workspace, "--json", *arguments)
        assert code == 0, err
        return json.loads(out)

    return call


def kinds(found: dict) -> list[str]:
    return sorted(i["kind"] for i in found["items"])


def stored(workspace: Path) -> set[Path]:
    return {p for part in ("objects", "results") for p in (workspace / "store" / part).glob("*/*")}


def test_while_every_run_is_kept_nothing_goes(run, gc, workspace: Path):
    run("one"), run("two")
    before = stored(workspace)
    assert gc("--yes") == {
        "dropped": True,
        "bytes": 0,
        "items": [],
        "runs_kept": gc()["runs_kept"],
        "runs_not_kept": [],
        "runs_going_on": [],
    }
    assert len(gc()["runs_kept"]) == 2 and stored(workspace) == before and len(before) == 8


def test_what_only_the_older_run_refers_to_goes_and_only_with_yes(cli, run, gc, workspace: Path, pipeline_file: Path, target_file: Path):
    old, new = run("one"), run("two")
    before = stored(workspace)
    found = gc("--keep", 1)
    assert kinds(found) == ["object", "object", "result", "result"] and found["dropped"] is False
    assert found["bytes"] == sum(Path(i["path"]).stat().st_size for i in found["items"]) > 0
    assert (found["runs_kept"], found["runs_not_kept"]) == ([new.name], [old.name])
    assert gc("--keep", 1, "--dry-run") == found and stored(workspace) == before
    assert gc("--keep", 1, "--yes")["bytes"] == found["bytes"]
    assert stored(workspace) == before - {Path(i["path"]) for i in found["items"]} and old.is_dir()
    assert all(link.exists() for link in new.glob("stages/*/model*"))
    code, out, _ = cli("plan", pipeline_file, "--target", target_file, "--set", "stages.first.with.text=two", "--json")
    assert code == 0 and [row["action"] for row in json.loads(out)] == ["restored", "restored"]


def test_what_two_runs_share_stays(run, gc, workspace: Path):
    run("one")
    run("one", 0, "--set", "stages.second.with.drop=0.2")
    assert kinds(gc("--keep", 1)) == ["result"], "the first stage is shared, and the second's bytes are equal"


def test_work_left_by_a_failed_stage(run, gc, workspace: Path):
    run("one", 5, "--set", "stages.first.with.fail=luck")
    (work,) = [p for p in (workspace / "store" / "work").iterdir() if p.is_dir()]
    (work / "checkpoint.pt").write_text("weights")
    assert gc()["items"] == [], "the run that would go on from there is kept"
    run("two")
    found = gc("--keep", 1, "--yes")
    assert kinds(found) == ["work"] and found["bytes"] == 7 and not work.exists()


def test_a_stage_whose_lock_is_held_and_what_comes_meanwhile_stay(run, gc, workspace: Path):
    old = run("one")
    key = json.loads((old / "report.json").read_text())["stages"][0]["key"]
    run("two")
    store = Store(workspace / "store")
    with store.lock(key):
        (store.workdir(key) / "part").write_text("x")
        found = gc("--keep", 0, "--yes")
        assert store.load(key) is not None and (store.workdir(key) / "part").exists()
        assert key not in {Path(i["path"]).stem for i in found["items"]} and kinds(found).count("result") == 3
    assert {Path(i["path"]).name for i in gc("--keep", 0)["items"]} >= {key, f"{key}.json"}


def test_a_run_that_goes_on_is_kept(run, gc, workspace: Path):
    going = run("one")
    (going / "report.json").unlink()
    finished = run("two")
    found = gc("--keep", 0)
    assert found["runs_going_on"] == found["runs_kept"] == [going.name] and found["runs_not_kept"] == [finished.name]
    assert found["items"] == [], "all that came since it began stays"
    long_ago = time.time() - 7200
    for path in (going / "events.jsonl", *going.glob("stages/*/log.txt"), going):
        os.utime(path, (long_ago, long_ago))
    found = gc("--keep", 0)
    assert found["runs_going_on"] == [] and kinds(found).count("object") == 4, "it was killed"


def test_a_run_that_begins_between_looking_and_dropping_keeps_what_it_restores(run, workspace: Path):
    run("one"), run("two")
    before = stored(workspace)
    garbage = find_garbage(workspace, keep=1)
    assert len(garbage.items) == 4
    again = run("one")
    assert drop(garbage, workspace) == 0 and stored(workspace) == before
    assert all(link.exists() for link in again.glob("stages/*/model*"))


def test_age_and_folders_of_runs(run, gc, workspace: Path):
    old, new = run("one"), run("two")
    long_ago = time.time() - 3 * 86400
    os.utime(old / "run.json", (long_ago, long_ago))
    assert gc("--older-than", 4)["items"] == []
    found = gc("--older-than", 2, "--runs", "--yes")
    assert kinds(found) == ["object", "object", "result", "result", "run"] and not old.exists() and new.is_dir()
    assert found["runs_not_kept"] == [old.name]


def test_a_damaged_object_put_aside_goes(run, gc, workspace: Path):
    run("one")
    path = next((workspace / "store" / "objects").glob("*/*"))
    path.with_name(f"{path.name}.damaged").write_text("junk")
    assert [Path(i["path"]).name for i in gc()["items"]] == [f"{path.name}.damaged"]


def test_an_unfinished_run_s_keys_are_read_from_its_stages(run, workspace: Path):
    kept = run("one")
    for name in ("report.json", "events.jsonl"):
        (kept / name).unlink()
    for path in kept.glob("stages/*/*"):
        if path.name != "key.json":
            path.unlink()
    assert find_garbage(workspace).items == ()


def test_text(cli, run, workspace: Path):
    run("one"), run("two")
    code, out, _ = cli("gc", "--workspace", workspace, "--keep", 1)
    assert code == 0 and out.startswith("runs: 1 kept, 1 not kept\n") and "; nothing was dropped: say --yes\n" in out
    assert "\nobject: 2, " in out and "\nresult: 2, " in out
    assert "\nfreed " in cli("gc", "--workspace", workspace, "--keep", 1, "--yes")[1]
    assert cli("gc", "--workspace", workspace, "--keep", 1, "--yes")[1] == "runs: 1 kept, 1 not kept\nnothing to drop\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--yes", "--dry-run"), "gc: --yes and --dry-run contradict each other\nhint: keep one of them\n"),
        (("--keep", 1, "--older-than", 1), "gc: --keep and --older-than both say which runs to keep\nhint: keep one of them\n"),
        (("--runs",), "--runs: all runs are kept, so none can be dropped\nhint: say which to keep: --keep N or --older-than DAYS\n"),
        (
            ("--workspace", "nowhere"),
            "--workspace nowhere: holds no store\nhint: give the folder that holds store/ and runs/, e.g. .pipeline\n",
        ),
    ],
)
def test_wrong_arguments(cli, arguments: tuple[object, ...], said: str):
    assert cli("gc", *arguments) == (2, "", said)


def test_help_has_examples(cli):
    code, out, _ = cli("gc", "--help")
    assert code == 0 and out.count("Example: python -m pipeline gc") == 2
