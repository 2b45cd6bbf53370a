"""The user's own pairs: a folder with ``blur/`` and ``sharp/``, whose images have equal names.

Three layouts are understood; suffixes may differ (``blur/1.jpg`` and ``sharp/1.png`` are a pair)::

    path/blur/1.png           path/sharp/1.png              a flat folder
    path/blur/street/1.png    path/sharp/street/1.png       one subfolder per scene
    path/street/blur/1.png    path/street/sharp/1.png       one subfolder per scene, as GoPro has it

YAML: ``{source: folder, path: my/pairs}``, with the options of ``FolderConfig``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from data.digests import file_digests, joint_digest, value_digest
from data.images import image_size, list_images, read_image
from pipeline.contract import Pair, ReaderSpec
from pipeline.errors import UsageError

_NAMED = 3  # how many wrong files an error names


class FolderConfig(BaseModel):
    """Options of ``source: folder``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path = Field(description="folder that holds blur/ and sharp/, or subfolders that do; relative to the pipeline file")
    scene: Literal["image", "folder", "prefix"] = Field(
        default="image",
        description="what images of one scene share: nothing (each is its own), their subfolder, or their name up to its last _ or -",
    )
    limit: int | None = Field(default=None, ge=1, description="use so many pairs, spread evenly over the sorted names")
    crop: int | None = Field(default=None, ge=16, description="cut each image to at most this size in pixels, from its middle")


class _Entry(NamedTuple):
    key: str  # path below the folder, without blur/ or sharp/ and without suffix
    blur: Path
    sharp: Path


class FolderSource:
    """Pairs in a folder; a ``pipeline.contract.PairSource``. Images are read when they are asked for."""

    def __init__(self, config: FolderConfig, entries: list[_Entry]) -> None:
        self.config = config
        self._entries = entries

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        entry = self._entries[index]
        lq, gt = read_image(entry.blur), read_image(entry.sharp)
        _require_equal(entry, lq.shape[:2], gt.shape[:2])
        cut = _middle(lq.shape[0], self.config.crop), _middle(lq.shape[1], self.config.crop)
        return Pair(np.ascontiguousarray(lq[cut]), np.ascontiguousarray(gt[cut]), entry.key.replace("/", "__"), self._scene_names[index])

    def digest(self) -> str:
        """64 hex digits over the names and bytes of the files, the options, and the version of the decoder."""
        import cv2

        files = [[e.key, *digests] for e, digests in zip(self._entries, self._digests, strict=True)]
        return value_digest({"files": files, "scene": self.config.scene, "crop": self.config.crop, "decoder": cv2.__version__})

    def scenes(self) -> Mapping[str, str]:
        """Scene name -> digest of its sharp images' files.

        With ``scene: image`` the name ends in the digest's first digits: equal file names in two folders are not the same scene.
        """
        members = defaultdict(list)
        for name, (_, sharp) in zip(self._scene_names, self._digests, strict=True):
            members[name].append(sharp)
        return {name: joint_digest(digests) for name, digests in members.items()}

    @cached_property
    def _digests(self) -> list[tuple[str, str]]:
        blur, sharp = file_digests([e.blur for e in self._entries]), file_digests([e.sharp for e in self._entries])
        return list(zip(blur, sharp, strict=True))

    @cached_property
    def _scene_names(self) -> list[str]:
        if self.config.scene == "image":
            return [f"{e.key}@{sharp[:12]}" for e, (_, sharp) in zip(self._entries, self._digests, strict=True)]
        if self.config.scene == "prefix":
            return [re.sub(r"[_-][^_\-/]*$", "", e.key) for e in self._entries]
        return [e.key.rpartition("/")[0] or str(self.config.path) for e in self._entries]


def open_folder(config: FolderConfig, base: Path, seed: int) -> FolderSource:
    """Open a folder of pairs. Only names and image headers are looked at; ``seed`` is not used.

    Raises:
        UsageError: a missing or empty folder, images without a partner, a file that is no image, or partners of different size.
    """
    path = base / config.path.expanduser()
    entries = [entry for root in _roots(path) for entry in _pairs(path, root)]
    limit = min(config.limit or len(entries), len(entries))
    entries = [entries[i * len(entries) // limit] for i in range(limit)]
    for entry in entries:
        _require_equal(entry, image_size(entry.blur), image_size(entry.sharp))
    return FolderSource(config, entries)


def _roots(path: Path) -> list[Path]:
    """The folders that hold blur/ and sharp/: ``path`` itself, or its subfolders."""
    hint = "put blurred images in blur/ and sharp ones, with equal names, in sharp/"
    if not path.is_dir():
        raise UsageError(str(path), "folder does not exist", "check the path; relative paths start at the pipeline file's folder")
    roots = [path] if any((path / part).is_dir() for part in ("blur", "sharp")) else sorted(p.parent for p in path.glob("*/blur/"))
    if not roots:
        raise UsageError(str(path), "holds no folders blur/ and sharp/", hint)
    for part in (root / name for root in roots for name in ("blur", "sharp")):
        if not part.is_dir():
            raise UsageError(str(part), "folder does not exist", hint)
    return roots


def _pairs(path: Path, root: Path) -> list[_Entry]:
    blur, sharp = _by_key(root / "blur"), _by_key(root / "sharp")
    alone = [str(p.relative_to(path)) for key, p in sorted({**blur, **sharp}.items()) if (key in blur) != (key in sharp)]
    if alone:
        shown = ", ".join(alone[:_NAMED]) + (f" and {len(alone) - _NAMED} more" if len(alone) > _NAMED else "")
        what = f"{len(alone)} image{'s' * (len(alone) > 1)} without a partner: {shown}"
        raise UsageError(str(path), what, "every image in blur/ needs one of the same name in sharp/, and the other way round")
    prefix = "" if root == path else f"{root.name}/"
    return [_Entry(prefix + key, blur[key], sharp[key]) for key in sorted(blur)]


def _by_key(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for image in list_images(folder, recursive=True):
        key = image.relative_to(folder).with_suffix("").as_posix()
        if key in found:
            raise UsageError(
                str(image), f"has the same name as {found[key].name}", "keep one image of each name; the suffix does not count"
            )
        found[key] = image
    return found


def _require_equal(entry: _Entry, blur: tuple[int, ...], sharp: tuple[int, ...]) -> None:
    if blur != sharp:
        what = f"is {blur[1]}x{blur[0]} but {entry.sharp} is {sharp[1]}x{sharp[0]}"
        raise UsageError(str(entry.blur), what, "the two images of a pair must show the same pixels: make them of equal size")


def _middle(length: int, crop: int | None) -> slice:
    kept = min(length, crop or length)
    return slice((length - kept) // 2, (length - kept) // 2 + kept)


READER = ReaderSpec(config=FolderConfig, open=open_folder)
