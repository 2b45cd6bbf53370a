"""REDS as published with Nah et al., "NTIRE 2019 Challenge on Video Deblurring and Super-Resolution".

Sequences of 100 frames, 1280x720: 240 to train with and 30 to validate on; the sharp frames of its test set are not published::

    path/train/train_sharp/000/00000000.png      path/train/train_blur/000/00000000.png
    path/val/val_sharp/000/00000000.png          path/val/val_blur/000/00000000.png

``train/`` and ``val/`` may be left out, and ``path`` may hold it all in a folder ``REDS``. Suffixes may differ (the frames of
``blur_jpeg`` are JPEG). A sequence is a scene; as both sets count from 000, its name holds the set's: ``train/000``.

YAML: ``{source: reds, path: data/REDS, split: train, without: [0, 11, 15, 20]}`` (all but the four that are often tested on,
known as REDS4), with the options of ``RedsConfig``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from data.filepairs import Found, PairOptions, pair_reader
from data.layouts import dataset_root, join, pair_folders
from pipeline.errors import UsageError, did_you_mean


def _padded(name: object) -> object:
    """YAML reads 011 as a number: 11 means the same sequence."""
    return f"{name:03d}" if isinstance(name, int) and not isinstance(name, bool) else name


_Sequence = Annotated[str, BeforeValidator(_padded)]


class RedsConfig(PairOptions):
    """Options of ``source: reds``."""

    path: Path = Field(description="folder of the unpacked REDS; relative to the pipeline file")
    split: Literal["train", "val"] = Field(description="which of the two published sets")
    blur: Literal["blur", "blur_comp", "blur_jpeg"] = Field(
        default="blur", description="kind of the blurred frames: blur, with video compression (blur_comp), or with JPEG's (blur_jpeg)"
    )
    sequences: tuple[_Sequence, ...] = Field(default=(), description="use these sequences only, e.g. [0, 11, 15, 20]; default all")
    without: tuple[_Sequence, ...] = Field(default=(), description="leave these sequences out")


def _find(config: RedsConfig, base: Path) -> Found:
    split, blur, sharp = config.split, f"{config.split}_{config.blur}", f"{config.split}_sharp"
    hint = f"REDS is laid out as {split}/{blur}/000/00000000.png and {split}/{sharp}/000/00000000.png"
    root = dataset_root(base / config.path.expanduser(), [split, "REDS", f"REDS/{split}"], [f"{blur}/", f"{sharp}/"], hint)
    for folder in (root / blur, root / sharp):
        if not folder.is_dir():
            raise UsageError(str(folder), "folder does not exist", hint)
    there = sorted({p.name for part in (blur, sharp) for p in (root / part).iterdir() if p.is_dir()})
    wanted = [name for name in _wanted(config, there, str(root / sharp)) if name not in config.without]
    if not wanted:
        raise UsageError(str(root / sharp), "holds no sequence to use", hint)

    def pairs(name: str) -> Found:
        return pair_folders(root / blur / name, root / sharp / name, root, f"{name}/", lambda key: f"{split}/{name}", hint=hint)

    return join([pairs(name) for name in wanted])


def _wanted(config: RedsConfig, there: list[str], where: str) -> list[str]:
    for name in (*config.sequences, *config.without):
        if name not in there:
            raise UsageError(where, f"there is no sequence '{name}'", did_you_mean(name, there))
    return sorted(set(config.sequences)) or there


READER = pair_reader(RedsConfig, _find)
