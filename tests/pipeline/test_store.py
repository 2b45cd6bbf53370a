from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pipeline.contract import Kind, Output
from pipeline.errors import StageFailed
from pipeline.store import Store, hash_path, write_atomic

KEY = "ab" * 32


@pytest.fixture
def store(tmp_path: Path) -> Store:
    said: list[str] = []
    made = Store(tmp_path / "store", warn=said.append)
    made.said = said
    return made


def sealed(store: Store, text: str = "bytes"):
    path = store.workdir(KEY) / "file"
    path.write_text(text)
    artifact = store.seal(Output(Kind.CHECKPOINT, path, {"a": 1}))
    entry = {"kind": "checkpoint", "sha256": artifact.sha256, "bytes": artifact.bytes, "facts": {"a": 1}}
    store.save(KEY, {"outputs": {"model": entry}})
    return artifact


def test_an_object_lies_under_its_hash(store):
    artifact = sealed(store)
    assert artifact.path == store.root / "objects" / artifact.sha256[:2] / artifact.sha256
    assert (artifact.bytes, len(artifact.sha256)) == (5, 64)
    assert store.load(KEY)["outputs"]["model"]["sha256"] == artifact.sha256
    assert store.artifact(store.load(KEY)["outputs"]["model"]) == artifact


def test_a_damaged_object_is_a_warning_and_a_miss_and_is_kept_aside(store):
    artifact = sealed(store)
    artifact.path.write_text("other")
    assert store.load(KEY) is None
    assert store.said == [f"store: object {artifact.sha256[:12]} is damaged or missing; the stage runs again"]
    assert artifact.path.with_name(artifact.sha256 + ".damaged").read_text() == "other"
    again = sealed(store)
    assert again.path.read_text() == "bytes" and store.load(KEY) is not None


@pytest.mark.parametrize("text", ["{", "[]", '{"outputs": 3}', ""])
def test_an_unreadable_result_is_a_warning_and_a_miss(store, text):
    store.result_path(KEY).parent.mkdir(parents=True)
    store.result_path(KEY).write_text(text)
    assert store.load(KEY) is None
    assert store.said == [f"store: result {KEY[:12]} is unreadable; the stage runs again"]


def test_a_folder_s_hash_covers_names_and_content(tmp_path):
    def folder(name: str, files: dict[str, str]) -> str:
        for path, text in files.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_text(text)
        return hash_path(tmp_path / name)

    base = folder("a", {"x": "1", "d/y": "2"})
    assert base == folder("b", {"x": "1", "d/y": "2"})
    assert len({base, folder("c", {"x": "1", "d/z": "2"}), folder("d", {"x": "2", "d/y": "2"})}) == 3


def test_sealing_what_was_not_written(store):
    with pytest.raises(StageFailed, match="was named as an output but does not exist"):
        store.seal(Output(Kind.CHECKPOINT, store.workdir(KEY) / "nothing"))


def test_an_atomic_write_leaves_no_temporary_file(tmp_path):
    write_atomic(tmp_path / "a" / "b.json", "1")
    write_atomic(tmp_path / "a" / "b.json", "2")
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.json"] and (tmp_path / "a" / "b.json").read_text() == "2"


def test_two_runs_of_one_stage_wait_in_line(store):
    order: list[str] = []
    with store.lock(KEY):
        waiter = threading.Thread(target=lambda: _take(store, order))
        waiter.start()
        while not store.said:
            pass
        order.append("first done")
    waiter.join(10)
    assert order == ["first done", "second"] and "another run holds stage" in store.said[0]


def _take(store: Store, order: list[str]) -> None:
    with store.lock(KEY):
        order.append("second")


def test_a_file_that_cannot_be_written_is_named_and_leaves_nothing(tmp_path: Path):
    (tmp_path / "there").mkdir()
    with pytest.raises(OSError) as e:
        write_atomic(tmp_path / "there", "text")
    assert e.value.filename == str(tmp_path / "there")
    assert [p.name for p in tmp_path.iterdir()] == ["there"]
