"""Writing pairs into the two LMDB databases that ``data.readers.lmdb`` reads, whole or as overlapping crops.

The crops are NAFNet's for GoPro (512 pixels, step 256, the last one aligned to the border), so that training reads a quarter of a
frame for a crop instead of all of it. Images are encoded as PNG: every pair comes back with the same bytes.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from os import cpu_count
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.readers.lmdb import BLUR, META, SCENES, SHARP
from pipeline.contract import PairSource
from pipeline.errors import ToolchainMissing, UsageError

_BATCH_BYTES = 64 * 2**20  # encoded images written in one transaction
_KEY_BYTES = 511  # LMDB's longest key


class Packed(NamedTuple):
    """What was written: pairs, and bytes on disk of both databases."""

    pairs: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Cut:
    """How each image is cut: squares of ``crop`` pixels every ``step`` pixels, or not at all (0).

    An image smaller than a crop on a side is kept whole on that side.
    """

    crop: int = 0
    step: int = 0

    def windows(self, height: int, width: int) -> list[tuple[slice, slice]]:
        """Rows and columns of every crop, from the top left, row by row."""
        if not self.crop:
            return [(slice(0, height), slice(0, width))]
        return [
            (slice(top, top + self.crop), slice(left, left + self.crop)) for top in self._starts(height) for left in self._starts(width)
        ]

    def _starts(self, length: int) -> list[int]:
        last = max(0, length - self.crop)
        return sorted({*range(0, last + 1, self.step), last})


class _Entry(NamedTuple):
    key: str
    scene: str
    size: tuple[int, int]
    blur: bytes
    sharp: bytes


def pack(
    source: PairSource,
    out: Path,
    cut: Cut = Cut(),
    compression: int = 1,
    advance: Callable[[], None] = lambda: None,
) -> Packed:
    """Write every pair of ``source`` into the new folder ``out``, which appears when it is complete.

    Args:
        source: any reader's pairs; their order is kept.
        out: must not exist.
        cut: crops instead of whole images.
        compression: PNG level 0 (fast, large) to 9 (slow, small); the pixels are the same.
        advance: called after each pair.

    Raises:
        ToolchainMissing: the package lmdb is not installed.
        UsageError: ``out`` exists or cannot be written, a pair cannot be read, or two names fall together.
    """
    if find_spec("lmdb") is None:
        raise ToolchainMissing("dataset pack", "the package lmdb is not installed", "pip install lmdb")
    import lmdb

    if out.exists() or out.is_symlink():
        raise UsageError(f"--out {out}", "exists already", "name a new folder, or remove this one first")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as e:
        raise _unwritable(out, str(e)) from e
    try:
        count = _write(source, draft, cut, compression, advance)
        size = sum(f.stat().st_size for f in draft.rglob("*.mdb"))
        draft.chmod(0o755)  # a temporary folder is its owner's alone
        draft.rename(out)
    except (OSError, lmdb.Error) as e:
        raise _unwritable(out, str(e)) from e
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Packed(count, size)


def _write(source: PairSource, folder: Path, cut: Cut, compression: int, advance: Callable[[], None]) -> int:
    scenes: dict[str, str] = {}
    with _Writer(folder / BLUR, compression) as blur, _Writer(folder / SHARP, compression) as sharp:
        for entries in _encoded(source, cut, compression):
            for entry in entries:
                if entry.key in scenes:
                    raise UsageError(f"pair '{entry.key}'", "two pairs have this name", "rename one; '.' counts as '_' there")
                scenes[entry.key] = entry.scene
                blur.put(entry.key, entry.size, entry.blur)
                sharp.put(entry.key, entry.size, entry.sharp)
            advance()
    (folder / SCENES).write_text(json.dumps(scenes, indent=0), encoding="utf-8")
    return len(scenes)


def _encoded(source: PairSource, cut: Cut, compression: int) -> Iterator[list[_Entry]]:
    """The entries of every pair, in order; a few pairs are read and encoded at once."""
    workers = cpu_count() or 1
    yield _entries(source, 0, cut, compression)  # in this thread: what a source works out once is then known to the others
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[list[_Entry]]] = deque()
        try:
            for index in range(1, len(source)):
                waiting.append(pool.submit(_entries, source, index, cut, compression))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _entries(source: PairSource, index: int, cut: Cut, compression: int) -> list[_Entry]:
    pair = source[index]
    name = pair.name.replace(".", "_")  # readers of meta_info.txt end the key at the first dot
    found = []
    for number, window in enumerate(cut.windows(*pair.lq.shape[:2]), start=1):
        lq, gt = pair.lq[window], pair.gt[window]
        key = f"{name}_s{number:03d}" if cut.crop else name
        if len(key.encode()) > _KEY_BYTES or "\n" in key:
            raise UsageError(f"pair '{key[:80]}'", f"its name has over {_KEY_BYTES} bytes or a line break", "rename its files")
        found.append(_Entry(key, pair.scene, (lq.shape[0], lq.shape[1]), _png(lq, compression), _png(gt, compression)))
    return found


def _png(image: NDArray[np.uint8], compression: int) -> bytes:
    import cv2

    _, encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, compression])
    return encoded.tobytes()


class _Writer:
    """One database being written, with its meta_info.txt; it grows as it is filled."""

    def __init__(self, folder: Path, compression: int) -> None:
        import lmdb

        self._full: type[Exception] = lmdb.MapFullError
        self._environment: Any = lmdb.open(str(folder), map_size=4 * _BATCH_BYTES, lock=False)
        self._meta = (folder / META).open("w", encoding="utf-8")
        self._compression, self._waiting, self._bytes = compression, list[tuple[bytes, bytes]](), 0

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self._flush()
        self._meta.close()
        self._environment.close()

    def put(self, key: str, size: tuple[int, int], value: bytes) -> None:
        """Add an encoded image of (height, width) ``size``."""
        self._meta.write(f"{key}.png ({size[0]},{size[1]},3) {self._compression}\n")
        self._waiting.append((key.encode(), value))
        self._bytes += len(value)
        if self._bytes >= _BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        while not self._committed():
            self._environment.set_mapsize(2 * self._environment.info()["map_size"])
        self._waiting, self._bytes = [], 0

    def _committed(self) -> bool:
        try:
            with self._environment.begin(write=True) as transaction:
                for key, value in self._waiting:
                    transaction.put(key, value)
        except self._full:
            return False
        return True


def _unwritable(out: Path, why: str) -> UsageError:
    return UsageError(f"--out {out}", f"cannot be written ({why})", "check the folder, its permissions and the free space")
