"""Writing pairs as image files that the reader ``folder`` reads: ``blur/<scene>/<name>.png`` and ``sharp/<scene>/<name>.png``."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from data.images import write_image
from pipeline.contract import PairSource
from pipeline.errors import UsageError

RECORD = "synthesis.json"
"""File in the written folder that says how its pairs were made."""


class Written(NamedTuple):
    """What was written; ``bytes`` of the images."""

    pairs: int
    scenes: int
    bytes: int


def refuse_existing(out: Path) -> None:
    """Raise UsageError when there is something at ``out``."""
    if out.exists() or out.is_symlink():
        raise UsageError(f"--out {out}", "exists already", "name a new folder, or remove this one first")


def write_pairs(
    source: PairSource, out: Path, record: Mapping[str, Any], workers: int = 1, advance: Callable[[], None] = lambda: None
) -> Written:
    """Write every pair of ``source`` into the new folder ``out``, which appears when it is complete. PNG: every pixel stays.

    Args:
        source: any reader's pairs; ``/`` in their names and scenes becomes ``__``.
        out: must not exist.
        record: how the pairs were made; goes into ``synthesis.json`` beside them, with their number and digest.
        workers: threads that make and write pairs; the bytes do not depend on it.
        advance: called after each pair.

    Raises:
        UsageError: ``out`` exists or cannot be written, a pair cannot be read, or two pairs have one name.
    """
    refuse_existing(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as e:
        raise _unwritable(out, e) from e
    try:
        written = _write(source, draft, workers, advance)
        described = {**record, "pairs": written.pairs, "scenes": written.scenes, "digest": source.digest()}
        (draft / RECORD).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
        draft.chmod(0o755)  # a temporary folder is its owner's alone
        draft.rename(out)
    except OSError as e:
        raise _unwritable(out, e) from e
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return written


def _write(source: PairSource, folder: Path, workers: int, advance: Callable[[], None]) -> Written:
    names: set[str] = set()
    size = 0
    with ThreadPoolExecutor(workers) as pool:
        waiting = [pool.submit(_write_one, source, index, folder) for index in range(len(source))]
        try:
            for done in as_completed(waiting):
                name, written = done.result()
                if name in names:
                    raise UsageError(f"pair '{name}'", "two pairs have this name", "rename one of their files")
                names.add(name)
                size += written
                advance()
        finally:
            pool.shutdown(cancel_futures=True)
    return Written(len(names), len({name.partition("/")[0] for name in names}), size)


def _write_one(source: PairSource, index: int, folder: Path) -> tuple[str, int]:
    pair = source[index]
    name = f"{pair.scene.replace('/', '__')}/{pair.name.replace('/', '__')}"
    size = 0
    for part, image in (("blur", pair.lq), ("sharp", pair.gt)):
        path = folder / part / f"{name}.png"
        write_image(path, image)
        size += path.stat().st_size
    return name, size


def _unwritable(out: Path, error: OSError) -> UsageError:
    return UsageError(f"--out {out}", f"cannot be written ({error.strerror})", "check the folder, its permissions and the free space")
