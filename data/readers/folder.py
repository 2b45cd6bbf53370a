"""The user's own pairs: a folder with ``blur/`` and ``sharp/``, whose images have equal names.

Three layouts are understood; suffixes may differ (``blur/1.jpg`` and ``sharp/1.png`` are a pair)::

    path/blur/1.png           path/sharp/1.png              a flat folder
    path/blur/street/1.png    path/sharp/street/1.png       one subfolder per scene
    path/street/blur/1.png    path/street/sharp/1.png       one subfolder per scene, as GoPro has it

The two folders may have other names: ``blur: input, sharp: target`` or ``blur: lq, sharp: gt``.

YAML: ``{source: folder, path: my/pairs}``, with the options of ``FolderConfig``.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from data.filepairs import Found, PairOptions, pair_reader
from data.layouts import join, pair_folders
from pipeline.errors import UsageError


def _below(name: str) -> str:
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or parts[0] == "/" or "\\" in name:
        raise ValueError(f"'{name}' is not the name of a folder inside 'path'")
    return "/".join(parts)


_Name = Annotated[str, AfterValidator(_below)]


class FolderConfig(PairOptions):
    """Options of ``source: folder``."""

    path: Path = Field(description="folder that holds blur/ and sharp/, or subfolders that do; relative to the pipeline file")
    blur: _Name = Field(default="blur", description="name of the folder of blurred images, e.g. input or lq")
    sharp: _Name = Field(default="sharp", description="name of the folder of sharp images, e.g. target or gt")
    scene: Literal["image", "folder", "prefix"] = Field(
        default="image",
        description="what images of one scene share: nothing (each is its own), their subfolder, or their name up to its last _ or -",
    )

    @model_validator(mode="after")
    def _two_folders(self) -> Self:
        if self.blur == self.sharp:
            raise ValueError(f"blur and sharp name the same folder '{self.blur}'")
        return self


def _find(config: FolderConfig, base: Path) -> Found:
    path = base / config.path.expanduser()

    def scene(key: str) -> str:
        if config.scene == "prefix":
            return re.sub(r"[_-][^_\-/]*$", "", key)
        return (key.rpartition("/")[0] or str(config.path)) if config.scene == "folder" else ""

    def pairs(root: Path) -> Found:
        prefix = "" if root == path else f"{root.name}/"
        return pair_folders(root / config.blur, root / config.sharp, path, prefix, scene)

    found = join([pairs(root) for root in _roots(path, config)])
    return Found(found.entries, found.findings, config.scene)


def _roots(path: Path, config: FolderConfig) -> list[Path]:
    """The folders that hold blur/ and sharp/: ``path`` itself, or its subfolders."""
    blur, sharp = config.blur, config.sharp
    hint = f"put blurred images in {blur}/ and sharp ones, with equal names, in {sharp}/"
    if not path.is_dir():
        raise UsageError(str(path), "folder does not exist", "check the path; relative paths start at the pipeline file's folder")
    roots = [path]
    if not any((path / part).is_dir() for part in (blur, sharp)):
        roots = sorted(p for p in path.iterdir() if (p / blur).is_dir())
    if not roots:
        raise UsageError(str(path), f"holds no folders {blur}/ and {sharp}/", hint)
    for part in (root / name for root in roots for name in (blur, sharp)):
        if not part.is_dir():
            raise UsageError(str(part), "folder does not exist", hint)
    return roots


READER = pair_reader(FolderConfig, _find)
