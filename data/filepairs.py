"""Pairs of image files, whatever their layout: the base of every reader whose pairs lie as files in folders or lists.

A reader says where the files are (``find(config, base) -> Found``); ``pair_reader`` makes the rest of it: opening, which refuses the
first thing that is wrong, and inspecting, which reports everything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from data.digests import file_digests, joint_digest, value_digest
from data.images import image_size, read_image
from pipeline.contract import Json, Pair, PairSource, Problem, ReaderSpec
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SMALLEST_SIDE = 16
"""Pixels: images with a shorter side are refused; no network here restores them."""

T = TypeVar("T")


class PairOptions(BaseModel):
    """Options that all readers of files share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int | None = Field(default=None, ge=1, description="use so many pairs, spread evenly over the sorted names")
    crop: int | None = Field(default=None, ge=SMALLEST_SIDE, description="cut each image to at most this size in pixels, from its middle")


class Entry(NamedTuple):
    """A pair on disk.

    key    its name in the data set, with / between folders and without suffix
    blur   the blurred image
    sharp  the sharp one
    scene  what it shares with others; "" for a pair that is a scene of its own
    """

    key: str
    blur: Path
    sharp: Path
    scene: str = ""

    @property
    def name(self) -> str:
        """``key`` as a file name."""
        return self.key.replace("/", "__")


class Finding(NamedTuple):
    """Something wrong: the error that opening raises and, where it counts several files, these files and what is wrong with each."""

    error: UsageError
    files: Sequence[Path] = ()
    what: str = ""

    def problems(self) -> Iterator[Problem]:
        """The same, one by one."""
        if not self.files:
            yield Problem(self.error.where, self.error.what)
        yield from (Problem(str(file), self.what) for file in self.files)


@dataclass(frozen=True, slots=True)
class Found:
    """What a layout holds: pairs, findings, or both. ``grouping`` stands for the scenes in the digest (default: their names)."""

    entries: Sequence[Entry]
    findings: Sequence[Finding] = ()
    grouping: Json = None


class FilePairSource:
    """Pairs of image files; a ``pipeline.contract.PairSource``. Images are read when they are asked for.

    Args:
        entries: the pairs, in order.
        crop: cut each image to at most this size in pixels, from its middle.
        grouping: stands for the scenes in the digest; default: their names.
    """

    def __init__(self, entries: Sequence[Entry], crop: int | None = None, grouping: Json = None) -> None:
        self.entries, self.crop = tuple(entries), crop
        self._grouping = grouping

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        entry = self.entries[index]
        lq, gt = read_image(entry.blur), read_image(entry.sharp)
        _require_equal(entry, lq.shape[:2], gt.shape[:2])
        return Pair(cut_middle(lq, self.crop), cut_middle(gt, self.crop), entry.name, self._scene_names[index])

    def digest(self) -> str:
        """64 hex digits over the names and bytes of the files, the options, and the version of the decoder."""
        import cv2

        files: list[Json] = [[e.key, *digests] for e, digests in zip(self.entries, self._digests, strict=True)]
        grouping = self._grouping or [e.scene for e in self.entries]
        return value_digest({"files": files, "scene": grouping, "crop": self.crop, "decoder": cv2.__version__})

    def scenes(self) -> Mapping[str, str]:
        """Scene name -> digest of its sharp images' files.

        The name of a pair that is its own scene ends in the digest's first digits: equal file names in two folders are not the same.
        """
        members = defaultdict(list)
        for name, (_, sharp) in zip(self._scene_names, self._digests, strict=True):
            members[name].append(sharp)
        return {name: joint_digest(digests) for name, digests in members.items()}

    @cached_property
    def _digests(self) -> list[tuple[str, str]]:
        blur, sharp = file_digests([e.blur for e in self.entries]), file_digests([e.sharp for e in self.entries])
        return list(zip(blur, sharp, strict=True))

    @cached_property
    def _scene_names(self) -> list[str]:
        if all(e.scene for e in self.entries):
            return [e.scene for e in self.entries]
        return [e.scene or f"{e.key}@{sharp[:12]}" for e, (_, sharp) in zip(self.entries, self._digests, strict=True)]


def pair_reader(config: type[PairOptions], find: Callable[[Any, Path], Found]) -> ReaderSpec:
    """A whole reader from its options and from what finds its files.

    Args:
        config: the options; ``limit`` and ``crop`` are obeyed here.
        find: (options, folder that relative paths refer to) -> what is there, never nothing. It raises UsageError where there is none.
    """

    def build(options: PairOptions, base: Path, seed: int) -> tuple[FilePairSource | None, list[Finding]]:
        found = find(options, base)
        sound, findings = check_entries(spread(found.entries, options.limit))
        source = FilePairSource(sound, options.crop, found.grouping) if sound else None
        return source, [*found.findings, *findings]

    return checked_reader(config, build)


def checked_reader(config: type[BaseModel], build: Callable[[Any, Path, int], tuple[PairSource | None, Sequence[Finding]]]) -> ReaderSpec:
    """A reader from ``build(options, base, seed)``, which gives what can be read and everything that is wrong, never neither.

    ``open`` looks at names and headers alone where ``build`` does; it raises the first finding, and ``inspect`` reports them all.
    """

    def opened(options: BaseModel, base: Path, seed: int) -> PairSource:
        source, findings = build(options, base, seed)
        if findings or source is None:
            raise findings[0].error
        return source

    def inspected(options: BaseModel, base: Path, seed: int) -> tuple[PairSource | None, list[Problem]]:
        try:
            source, findings = build(options, base, seed)
        except UsageError as e:
            source, findings = None, [Finding(e)]
        return source, list(dict.fromkeys(chain.from_iterable(f.problems() for f in findings)))

    return ReaderSpec(config=config, open=opened, inspect=inspected)


def check_entries(entries: Sequence[Entry]) -> tuple[list[Entry], list[Finding]]:
    """The sound entries, and what is wrong with the others, in order.

    Two pairs of one name, files that are missing, empty or no image, partners of different size, and images that are too small;
    told from names and image headers, so a damaged picture behind a sound header is found when it is read.
    """
    seen: dict[str, Entry] = {}
    sound, findings = [], []
    with ThreadPoolExecutor() as pool:
        for entry, errors in zip(entries, pool.map(_header_errors, entries), strict=True):
            first = seen.setdefault(entry.name, entry)
            if first is not entry:
                hint = "keep one pair of each name; the suffix does not count, and / counts as __"
                errors.insert(0, UsageError(str(entry.blur), f"makes a second pair of the name '{entry.name}', after {first.blur}", hint))
            if not errors:
                sound.append(entry)
            findings += [Finding(e) for e in errors]
    return sound, findings


def spread(items: Sequence[T], limit: int | None) -> list[T]:
    """At most ``limit`` of the items, evenly spread over them, in order."""
    count = min(limit or len(items), len(items))
    return [items[i * len(items) // count] for i in range(count)]


def cut_middle(image: NDArray[np.uint8], crop: int | None) -> NDArray[np.uint8]:
    """The middle of ``image`` [H, W, 3], at most ``crop`` pixels on a side (None: all of it)."""
    return np.ascontiguousarray(image[_middle(image.shape[0], crop), _middle(image.shape[1], crop)])


def _header_errors(entry: Entry) -> list[UsageError]:
    sizes, errors = [], []
    for path in (entry.blur, entry.sharp):
        try:
            sizes.append(image_size(path))
        except UsageError as e:
            errors.append(e)
    if errors:
        return errors
    try:
        _require_equal(entry, *sizes)
    except UsageError as e:
        return [e]
    h, w = sizes[0]
    what = f"is {w}x{h} pixels; the shorter side must have at least {SMALLEST_SIDE}"
    return [UsageError(str(entry.blur), what, "remove the pair")] if min(h, w) < SMALLEST_SIDE else []


def _require_equal(entry: Entry, blur: tuple[int, ...], sharp: tuple[int, ...]) -> None:
    if blur != sharp:
        what = f"is {blur[1]}x{blur[0]} but {entry.sharp} is {sharp[1]}x{sharp[0]}"
        raise UsageError(str(entry.blur), what, "the two images of a pair must show the same pixels: make them of equal size")


def _middle(length: int, crop: int | None) -> slice:
    kept = min(length, crop or length)
    return slice((length - kept) // 2, (length - kept) // 2 + kept)
