"""RealBlur as published with Rim et al., "Real-World Blur Dataset for Learning and Benchmarking Deblurring Algorithms" (ECCV 2020).

3758 pairs to train with and 980 to test on, of the camera's JPEG (J) and of its raw data (R), named by lists beside them::

    path/RealBlur_J_train_list.txt
    path/RealBlur-J_ECC_IMCORR_centroid_itensity_ref/scene001/{gt/gt_1.png,blur/blur_1.png}

A line of a list names the sharp and the blurred image, relative to ``path``; which is which is told by their folders ``gt`` and
``blur``, and what follows on the line is not used. ``path`` may also hold them in a folder ``RealBlur``. The scenes are the
published ones (scene001); J and R show the same.

YAML: ``{source: realblur, path: data/RealBlur, camera: J, split: train}``, with the options of ``RealblurConfig``.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field

from data.filepairs import Entry, Finding, Found, PairOptions, pair_reader
from data.layouts import dataset_root, read_list
from pipeline.errors import UsageError

_HINT = "a line of RealBlur's lists reads '<folder>/scene001/gt/gt_1.png <folder>/scene001/blur/blur_1.png'"


class RealblurConfig(PairOptions):
    """Options of ``source: realblur``."""

    path: Path = Field(description="folder that holds the lists and what they name; relative to the pipeline file")
    camera: Literal["J", "R"] = Field(default="J", description="J: the camera's JPEG images; R: those developed from its raw data")
    split: Literal["train", "test"] = Field(description="which of the two published lists")


def _find(config: RealblurConfig, base: Path) -> Found:
    name = f"RealBlur_{config.camera}_{config.split}_list.txt"
    root = dataset_root(base / config.path.expanduser(), ["RealBlur"], [name], f"put the list of the data set beside its folders; {_HINT}")
    entries, findings = [], []
    for place, words in read_list(root / name, _HINT):
        by_role = {_role(word): word for word in words[:2]}
        if by_role.keys() == {"blur", "gt"}:
            entries.append(_entry(root, by_role["blur"], by_role["gt"]))
        else:
            what = f"'{' '.join(words)}' names no image in a folder gt/ and one in a folder blur/"
            findings.append(Finding(UsageError(place, what, _HINT)))
    return Found(entries, findings)


def _role(path: str) -> str:
    """The nearest folder named gt or blur; "" where there is none."""
    folders = [part.lower() for part in PurePosixPath(path).parts[:-1]]
    return next((part for part in reversed(folders) if part in ("gt", "blur")), "")


def _entry(root: Path, blur: str, sharp: str) -> Entry:
    path = PurePosixPath(blur)
    scene = next((part for part in path.parts if part.lower().startswith("scene")), path.parent.parent.name or "RealBlur")
    return Entry(f"{scene}/{path.stem}", root / blur, root / sharp, scene)


READER = pair_reader(RealblurConfig, _find)
