"""HIDE as published with Shen et al., "Human-Aware Motion Deblurring" (ICCV 2019).

6397 blurred images to train with and 2025 to test on, with people in front of the camera; the sharp ones of both lie together::

    path/train/1fromGOPR0950.png
    path/test/test-close-ups/1fromGOPR1096.png      path/test/test-long-shot/2fromGOPR0863.png
    path/GT/1fromGOPR0950.png                       equal names

``path`` may also hold them in the archive's own folder ``HIDE_dataset``.

YAML: ``{source: hide, path: data/HIDE_dataset, split: test}``, with the options of ``HideConfig``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from data.filepairs import Found, PairOptions, pair_reader
from data.layouts import dataset_root, join, pair_folders

_HINT = "HIDE is laid out as train/*.png, test/test-close-ups/*.png, test/test-long-shot/*.png and, with equal names, GT/*.png"


class HideConfig(PairOptions):
    """Options of ``source: hide``."""

    path: Path = Field(description="folder of the unpacked HIDE_dataset; relative to the pipeline file")
    split: Literal["train", "test"] = Field(description="which of the two published sets")
    subset: Literal["all", "close-ups", "long-shot"] = Field(default="all", description="part of the test set by distance of the people")
    scene: Literal["image", "video"] = Field(
        default="image",
        description="what images of one scene share: nothing (each is its own), or the video that their name ends in (1fromGOPR0950); "
        "by video, the published sets may turn out to overlap, which a run refuses",
    )

    @model_validator(mode="after")
    def _test_has_subsets(self) -> Self:
        if self.subset != "all" and self.split != "test":
            raise ValueError(f"only the test set has a part '{self.subset}'; say split: test")
        return self


def _find(config: HideConfig, base: Path) -> Found:
    root = dataset_root(base / config.path.expanduser(), ["HIDE_dataset"], [f"{config.split}/"], _HINT)
    subsets = ["close-ups", "long-shot"] if config.subset == "all" else [config.subset]
    folders = [root / "train"] if config.split == "train" else [root / "test" / f"test-{name}" for name in subsets]

    def scene(key: str) -> str:
        video = re.search(r"from(\w+)$", key) if config.scene == "video" else None
        return video[1] if video else ""

    return join([pair_folders(folder, root / "GT", root, scene=scene, spare=True, hint=_HINT) for folder in folders])


READER = pair_reader(HideConfig, _find)
