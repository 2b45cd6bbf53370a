"""Pairs in two LMDB databases, as NAFNet's preparation of GoPro writes them and as ``python -m pipeline dataset pack`` does.

::

    path/blur_crops.lmdb/   data.mdb, meta_info.txt    blurred images: key -> encoded PNG or JPEG
    path/sharp_crops.lmdb/  data.mdb, meta_info.txt    sharp images, with the same keys
    path/scenes.json                                   key -> scene; written by ``dataset pack`` alone

A line of meta_info.txt is ``name.png (height,width,channels) compression``; the key is the name without its suffix. One file that is
read in place costs far less than a folder of ten thousand small ones.

YAML: ``{source: lmdb, path: my/packed}``, with the options of ``LmdbConfig``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from data.digests import joint_digest, value_digest
from pipeline.contract import Pair, Problem, ReaderSpec
from pipeline.errors import ToolchainMissing, UsageError

BLUR, SHARP, META, SCENES = "blur_crops.lmdb", "sharp_crops.lmdb", "meta_info.txt", "scenes.json"

_AGAIN = "pack the pairs again: 'python -m pipeline dataset pack --help'"
_LINE = re.compile(r"(?P<key>.+)\.\w+ \((?P<height>\d+),(?P<width>\d+),\d+\) \d+")
_NAMED = 3  # how many wrong keys an error names

Size = tuple[int, int]


class LmdbConfig(BaseModel):
    """Options of ``source: lmdb``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path = Field(description="folder that holds the two databases; relative to the pipeline file")
    blur: str = Field(default=BLUR, description="name of the database of blurred images, a folder in 'path'")
    sharp: str = Field(default=SHARP, description="name of the database of sharp images, a folder in 'path'")
    scene: Literal["stored", "image", "prefix"] | None = Field(
        default=None,
        description="what pairs of one scene share: what scenes.json says, nothing (each is its own), or their name up to its last _ or -, "
        "crop numbers such as _s001 left aside; default: stored where there is a scenes.json, else prefix",
    )
    limit: int | None = Field(default=None, ge=1, description="use so many pairs, spread evenly in their order")


class _Place(NamedTuple):
    """The two databases and what scenes.json says; picklable, nothing is open."""

    blur: Path
    sharp: Path
    stored: Mapping[str, str] | None


class LmdbSource:
    """Pairs in two databases; a ``pipeline.contract.PairSource``. The databases are opened when a pair is asked for, in each process."""

    def __init__(self, config: LmdbConfig, place: _Place, keys: Sequence[str]) -> None:
        self.config, self._place, self._keys = config, place, list(keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        key = self._keys[index]
        lq, gt = _image(self._place.blur, key), _image(self._place.sharp, key)
        if lq.shape != gt.shape:
            raise _unequal(self._place, key, lq.shape[:2], gt.shape[:2])
        return Pair(lq, gt, key.replace("/", "__"), self._scene_names[index])

    def digest(self) -> str:
        """64 hex digits over keys, values, scenes and the version of the decoder; every value is read, as with a folder's files."""
        import cv2

        values = [[key, *digests] for key, digests in zip(self._keys, self._digests, strict=True)]
        return value_digest({"values": values, "scenes": self._scene_names, "decoder": cv2.__version__})

    def scenes(self) -> Mapping[str, str]:
        """Scene name -> digest of its sharp images' encoded bytes."""
        members = defaultdict(list)
        for name, (_, sharp) in zip(self._scene_names, self._digests, strict=True):
            members[name].append(sharp)
        return {name: joint_digest(digests) for name, digests in members.items()}

    @cached_property
    def _digests(self) -> list[tuple[str, str]]:
        return list(zip(_hashes(self._place.blur, self._keys), _hashes(self._place.sharp, self._keys), strict=True))

    @cached_property
    def _scene_names(self) -> list[str]:
        stored = self._place.stored
        if stored is not None:
            return [stored[key] for key in self._keys]
        if self.config.scene == "image":
            return [f"{key}@{sharp[:12]}" for key, (_, sharp) in zip(self._keys, self._digests, strict=True)]
        return [re.sub(r"[_-][^_\-/]*$", "", re.sub(r"_s\d+$", "", key)) for key in self._keys]


def open_lmdb(config: LmdbConfig, base: Path, seed: int) -> LmdbSource:
    """Open two databases. Only the meta_info.txt files are looked at; ``seed`` is not used.

    Raises:
        ToolchainMissing: the package lmdb is not installed.
        UsageError: a missing folder or file, keys without a partner, or partners of different size.
    """
    source, problems = _opened(config, base)
    if problems:
        raise problems[0]
    return source


def inspect_lmdb(config: LmdbConfig, base: Path, seed: int) -> tuple[LmdbSource | None, list[Problem]]:
    """The pairs that can be read, and everything that is wrong: also keys of meta_info.txt that the database does not hold."""
    try:
        source, problems = _opened(config, base)
        missing = [(path, key) for path in (source._place.blur, source._place.sharp) for key in _absent(path, source._keys)]
    except UsageError as e:
        return None, [Problem(e.where, e.what)]
    gone = {key for _, key in missing}
    whole = LmdbSource(config, source._place, [key for key in source._keys if key not in gone])
    errors = [*problems, *(_no_value(path, key) for path, key in missing)]
    return (whole if len(whole) else None), [Problem(e.where, e.what) for e in errors]


def _opened(config: LmdbConfig, base: Path) -> tuple[LmdbSource, list[UsageError]]:
    """The pairs whose entries fit, and an error for everything else; raises where there is nothing to go on with."""
    if importlib.util.find_spec("lmdb") is None:
        raise ToolchainMissing("data source 'lmdb'", "the package lmdb is not installed", "pip install lmdb")
    path = base / config.path.expanduser()
    blur, sharp = _entries(path / config.blur), _entries(path / config.sharp)
    both = [key for key in blur if key in sharp]
    alone = [f"{config.blur}/{key}" for key in blur if key not in sharp] + [f"{config.sharp}/{key}" for key in sharp if key not in blur]
    place = _Place(path / config.blur, path / config.sharp, _stored(config, path, both))
    problems = [_without_partner(path, alone)] if alone else []
    problems += [_unequal(place, key, blur[key], sharp[key]) for key in both if blur[key] != sharp[key]]
    keys = [key for key in both if blur[key] == sharp[key]]
    limit = min(config.limit or len(keys), len(keys))
    return LmdbSource(config, place, [keys[i * len(keys) // limit] for i in range(limit)]), problems


def _entries(path: Path) -> dict[str, Size]:
    """Key -> (height, width) as meta_info.txt has them."""
    if not path.is_dir():
        hint = "name the databases with 'blur:' and 'sharp:'; relative paths start at the pipeline file's folder"
        raise UsageError(str(path), "database does not exist", hint)
    for part in (path / META, path / "data.mdb"):
        if not part.is_file():
            raise UsageError(str(part), "file does not exist", _AGAIN)
    found = {}
    for number, line in enumerate((path / META).read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        match = _LINE.fullmatch(line.strip())
        if match is None:
            what = f"line {number} is not 'name.png (height,width,channels) compression': {line[:80]!r}"
            raise UsageError(str(path / META), what, _AGAIN)
        found[match["key"]] = (int(match["height"]), int(match["width"]))
    if not found:
        raise UsageError(str(path / META), "names no image", _AGAIN)
    return found


def _stored(config: LmdbConfig, path: Path, keys: Sequence[str]) -> Mapping[str, str] | None:
    file = path / SCENES
    if config.scene in ("image", "prefix") or (config.scene is None and not file.exists()):
        return None
    try:
        scenes = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(str(file), "file does not exist", "say 'scene: prefix' or 'scene: image'") from None
    except (OSError, ValueError) as e:
        raise UsageError(str(file), f"cannot be read ({e})", _AGAIN) from None
    missing = [key for key in keys if not isinstance(scenes, dict) or not isinstance(scenes.get(key), str)]
    if missing:
        raise UsageError(str(file), f"has no scene for '{missing[0]}'", f"say 'scene: prefix', or {_AGAIN}")
    return {key: scenes[key] for key in keys}


def _image(path: Path, key: str) -> NDArray[np.uint8]:
    import cv2

    image = cv2.imdecode(np.frombuffer(_value(path, key), np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise UsageError(f"{path}: {key}", "not a readable image", _AGAIN)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def _value(path: Path, key: str) -> bytes:
    with _environment(path).begin() as transaction:
        value: bytes | None = transaction.get(key.encode())
    if not value:
        raise _no_value(path, key)
    return value


def _hashes(path: Path, keys: Sequence[str]) -> list[str]:
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda key: sha256(_value(path, key)).hexdigest(), keys))


def _absent(path: Path, keys: Sequence[str]) -> list[str]:
    with _environment(path).begin(buffers=True) as transaction:
        return [key for key in keys if transaction.get(key.encode()) is None]


_environments: dict[tuple[int, int], tuple[int, Any]] = {}
_opening = threading.Lock()


def _environment(path: Path) -> Any:
    """The open database; opened once in a process, as LMDB asks for, however many sources and threads read it.

    A forked process uses what its parent opened: a read-only mapping without locks is all that there is to share. A database that was
    written anew since then is opened again.
    """
    import lmdb

    try:
        file = (path / "data.mdb").stat()
        identity = file.st_dev, file.st_ino
        with _opening:
            written, environment = _environments.get(identity, (0, None))
            if written != file.st_mtime_ns:
                if environment is not None:
                    environment.close()
                environment = lmdb.open(str(path), readonly=True, lock=False, readahead=False, meminit=False)
                _environments[identity] = file.st_mtime_ns, environment
    except (OSError, lmdb.Error) as e:
        raise UsageError(str(path), f"cannot be opened ({e})", _AGAIN) from e
    return environment


def _fresh_lock() -> None:
    global _opening  # noqa: PLW0603 - another thread may hold it while a process forks, and does not live on there
    _opening = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fresh_lock)


def _no_value(path: Path, key: str) -> UsageError:
    return UsageError(f"{path}: {key}", f"is in {META} but not in the database", _AGAIN)


def _without_partner(path: Path, alone: Sequence[str]) -> UsageError:
    shown = ", ".join(alone[:_NAMED]) + (f" and {len(alone) - _NAMED} more" if len(alone) > _NAMED else "")
    what = f"{len(alone)} image{'s' * (len(alone) > 1)} without a partner: {shown}"
    return UsageError(str(path), what, "every key of one database must be in the other")


def _unequal(place: _Place, key: str, blur: Sequence[int], sharp: Sequence[int]) -> UsageError:
    what = f"is {blur[1]}x{blur[0]} but that of {place.sharp} is {sharp[1]}x{sharp[0]}"
    return UsageError(f"{place.blur}: {key}", what, "the two images of a pair must show the same pixels: make them of equal size")


READER = ReaderSpec(config=LmdbConfig, open=open_lmdb, inspect=inspect_lmdb)
