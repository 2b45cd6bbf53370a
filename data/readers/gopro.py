"""GoPro (GOPRO_Large) as published with Nah, Kim & Lee, "Deep Multi-Scale Convolutional Neural Network for Dynamic Scene Deblurring".

2103 pairs to train with and 1111 to test on, 1280x720, from video sequences that are in one of the two only::

    path/train/GOPR0372_07_00/{blur,blur_gamma,sharp}/000047.png
    path/test/GOPR0384_11_00/{blur,blur_gamma,sharp}/000001.png

``path`` may also hold them in the archive's own folder ``GOPRO_Large``. A sequence is a scene.

YAML: ``{source: gopro, path: data/GOPRO_Large, split: train}``, with the options of ``GoproConfig``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from data.filepairs import Found, PairOptions, pair_reader
from data.layouts import dataset_root, join, pair_folders
from pipeline.errors import UsageError


class GoproConfig(PairOptions):
    """Options of ``source: gopro``."""

    path: Path = Field(description="folder of the unpacked GOPRO_Large; relative to the pipeline file")
    split: Literal["train", "test"] = Field(description="which of the two published sets of sequences")
    variant: Literal["blur", "blur_gamma"] = Field(
        default="blur",
        description="how the frames were averaged: 'blur' as they are, 'blur_gamma' in linear light",
    )


def _find(config: GoproConfig, base: Path) -> Found:
    place = f"{config.split}/<sequence>"
    hint = f"GOPRO_Large is laid out as {place}/{config.variant}/000001.png and {place}/sharp/000001.png"
    root = dataset_root(base / config.path.expanduser(), ["GOPRO_Large"], [f"{config.split}/"], hint) / config.split
    sequences = sorted(p for p in root.iterdir() if (p / config.variant).is_dir() or (p / "sharp").is_dir())
    if not sequences:
        raise UsageError(str(root), f"holds no sequences with {config.variant}/ and sharp/", hint)

    def pairs(folder: Path) -> Found:
        return pair_folders(folder / config.variant, folder / "sharp", root, f"{folder.name}/", lambda key: folder.name, hint=hint)

    return join([pairs(folder) for folder in sequences])


READER = pair_reader(GoproConfig, _find)
