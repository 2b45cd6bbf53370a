"""The content-addressed store: objects by hash, results by key, work in progress by key.

::

    store/objects/ab/<sha256>      a file or a folder, read-only by convention
    store/results/ab/<key>.json    what a stage returned under that key
    store/work/<key>/              a stage's workdir until it is done; an interrupted stage finds its checkpoints here
    store/shared/<what>/<name>/    what stages can compute anew and have in common (``pipeline.shared``)

Every write goes to a temporary name first, is flushed to disk, then renamed: a reader sees all of it or nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.contract import Artifact, Kind, Output
from pipeline.errors import StageFailed

CHUNK = 1 << 20


def hash_file(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as f:
        while chunk := f.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def hash_path(path: Path) -> str:
    """SHA-256 of a file, or of a folder: over the sorted lines ``<sha256>  <relative path>`` of its files."""
    if path.is_file():
        return hash_file(path)
    lines = (f"{hash_file(p)}  {p.relative_to(path).as_posix()}\n" for p in sorted(path.rglob("*")) if p.is_file())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder, without those that another process removes meanwhile."""
    if path.is_file():
        return path.stat().st_size
    size = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                size += (Path(folder) / name).stat().st_size
    return size


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that it is either the old or the new one, even after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with tmp.open("w", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        tmp.replace(path)
    except OSError as e:  # said of the file that was asked for
        e.filename, e.filename2 = str(path), None
        with contextlib.suppress(OSError):
            tmp.unlink()
        raise


class Store:
    """Objects, results and work under one folder.

    Args:
        root: the folder; created when needed.
        warn: called with one line when an entry turns out to be damaged.

    """

    def __init__(self, root: Path, warn: Callable[[str], None] = lambda _: None) -> None:
        self.root, self.warn = root.resolve(), warn
        self.shared = self.root / "shared"

    def object_path(self, sha256: str) -> Path:
        """Where the object with that hash lies."""
        return self.root / "objects" / sha256[:2] / sha256

    def result_path(self, key: str) -> Path:
        """Where the result with that key lies."""
        return self.root / "results" / key[:2] / f"{key}.json"

    def workdir(self, key: str) -> Path:
        """The folder of a stage in progress; created, and kept until ``finish``."""
        path = self.root / "work" / key
        path.mkdir(parents=True, exist_ok=True)
        return path

    def finish(self, key: str) -> None:
        """Drop a stage's workdir."""
        shutil.rmtree(self.root / "work" / key, ignore_errors=True)

    def seal(self, output: Output) -> Artifact:
        """Move a stage's output into the store.

        Raises:
            StageFailed: the stage named a file that it did not write.

        """
        if not output.path.exists():
            raise StageFailed(str(output.path), "was named as an output but does not exist", "the stage must write it under its workdir")
        sha, size = hash_path(output.path), size_of(output.path)
        final = self.object_path(sha)
        if final.exists() and hash_path(final) != sha:
            self._drop(final)
        if not final.exists():
            final.parent.mkdir(parents=True, exist_ok=True)
            _sync(output.path)
            output.path.replace(final)
        return Artifact(output.kind, final, sha, size, dict(output.facts))

    def save(self, key: str, result: dict[str, Any]) -> None:
        """Write a result; its outputs must be sealed already."""
        write_atomic(self.result_path(key), json.dumps(result, indent=1, sort_keys=True))

    def load(self, key: str) -> dict[str, Any] | None:
        """The result with that key, or None: absent, unreadable, or with an object that no longer has its hash (with a warning)."""
        path = self.result_path(key)
        if not path.exists():
            return None
        try:
            result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            outputs = result["outputs"].values()
            damaged = next((o["sha256"] for o in outputs if not self._intact(o["sha256"])), None)
        except (ValueError, KeyError, TypeError, AttributeError, OSError):
            self.warn(f"store: result {key[:12]} is unreadable; the stage runs again")
            return None
        if damaged:
            self.warn(f"store: object {damaged[:12]} is damaged or missing; the stage runs again")
            return None
        return result

    def artifact(self, entry: dict[str, Any]) -> Artifact:
        """The artifact that a result's output entry describes."""
        return Artifact(Kind(entry["kind"]), self.object_path(entry["sha256"]), entry["sha256"], entry["bytes"], entry["facts"])

    @contextlib.contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold a key: a second run that wants the same stage waits here, then finds it done."""
        path = self.root / "work" / f"{key}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.warn(f"store: another run holds stage {key[:12]}; waiting for it")
                fcntl.flock(f, fcntl.LOCK_EX)
            yield

    def _intact(self, sha: str) -> bool:
        path = self.object_path(sha)
        if not path.exists():
            return False
        if hash_path(path) == sha:
            return True
        self._drop(path)
        return False

    def _drop(self, path: Path) -> None:
        aside = path.with_name(f"{path.name}.damaged")
        shutil.rmtree(aside, ignore_errors=True)
        aside.unlink(missing_ok=True)
        path.rename(aside)


def _sync(path: Path) -> None:
    for file in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        with file.open("rb") as f:
            os.fsync(f.fileno())
