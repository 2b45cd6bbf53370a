"""Pairs named by a text file, wherever the images lie.

One pair per line, first the blurred image unless ``order`` says otherwise; white space between the two paths::

    # night, by hand
    blur/001.png sharp/001.png
    "my photos/IMG 12.jpg" 'my photos/IMG 12 tripod.jpg'      # a path that contains spaces stands in quotes

Paths are relative to ``root``, by default the list's own folder. A pair is named after its blurred image.

YAML: ``{source: list, path: my/train.txt}``, with the options of ``ListConfig``.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field

from data.filepairs import Entry, Finding, Found, PairOptions, pair_reader
from data.layouts import read_list
from pipeline.errors import UsageError

_HINT = "write one pair per line, two paths with a space between them; put a path that contains spaces in quotes"


class ListConfig(PairOptions):
    """Options of ``source: list``."""

    path: Path = Field(description="text file with two paths per line; relative to the pipeline file")
    root: Path | None = Field(default=None, description="folder that the paths start at, relative to the pipeline file; default the list's")
    order: Literal["blur-sharp", "sharp-blur"] = Field(default="blur-sharp", description="which of the two comes first on a line")
    scene: Literal["image", "folder"] = Field(
        default="image", description="what images of one scene share: nothing (each is its own), or the folder of the sharp image"
    )


def _find(config: ListConfig, base: Path) -> Found:
    path = base / config.path.expanduser()
    root = path.parent if config.root is None else base / config.root.expanduser()
    entries, findings = [], []
    for place, words in read_list(path, _HINT):
        if len(words) != 2:
            findings.append(Finding(UsageError(place, f"names {len(words)} path{'s' * (len(words) > 1)}, not two", _HINT)))
            continue
        blur, sharp = words if config.order == "blur-sharp" else words[::-1]
        scene = str(PurePosixPath(sharp).parent) if config.scene == "folder" else ""
        entries.append(Entry(_key(blur), root / Path(blur).expanduser(), root / Path(sharp).expanduser(), scene))
    return Found(entries, findings)


def _key(path: str) -> str:
    named = PurePosixPath(path)
    return "/".join(part for part in (*named.parent.parts, named.stem) if part not in ("..", "/", "~"))


READER = pair_reader(ListConfig, _find)
