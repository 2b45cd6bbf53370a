"""Frame sequences and videos: blurred images by averaging consecutive sharp frames, as GoPro's were made.

::

    path.mp4                    a video (.mp4 .mov .avi .mkv)
    path/000001.png ...         a sequence: images numbered in their order, without gaps
    path/street/000001.png      any number of sequences and videos, in subfolders of any depth
    path/park.mov

``average`` frames in a row become the blurred image and the middle one of them is the sharp image. Frames should come fast (GoPro's:
240 per second) or move little: where an edge jumps by several pixels from frame to frame, the average shows it several times. A
sequence or video is a scene.

A video is decoded once when it is opened, and again from its last key frame for every pair that is read; to train on much of it,
pack the pairs first (``python -m pipeline dataset pack``).

YAML: ``{source: frames, path: my/clip.mp4, average: 7}``, with the options of ``FramesConfig``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import AfterValidator, Field, model_validator

from data.camera import Gamma
from data.digests import joint_digest, value_digest
from data.filepairs import SMALLEST_SIDE, Finding, PairOptions, checked_reader, cut_middle, spread
from data.frames import Footage, expose, find_footage
from pipeline.contract import Pair
from pipeline.errors import UsageError

_VERSION = 1
"""Part of the digest: raise it when a change here, in ``data.frames`` or in ``data.camera`` changes the bytes of a pair."""


def _odd(count: int) -> int:
    if count % 2 == 0:
        raise ValueError(f"{count} is even: the sharp image is the middle frame, so the number must be odd")
    return count


class FramesConfig(PairOptions):
    """Options of ``source: frames``."""

    path: Path = Field(description="a video, or a folder that holds numbered frames, videos, or subfolders of these")
    average: Annotated[int, AfterValidator(_odd)] = Field(default=7, ge=3, le=255, description="frames that make one blurred image; odd")
    stride: int | None = Field(default=None, ge=1, description="frames from one blurred image to the next; default: as many as it averages")
    gamma: Gamma = Field(
        default=2.2, description="response curve that is inverted before averaging: an exponent, or srgb; 1 averages the values as they are"
    )
    least_motion: float = Field(
        default=0,
        ge=0,
        description="frames that differ less than this from one another are static: mean absolute difference in grey levels (of 255) from "
        "frame to frame, averaged over those of one blurred image",
    )
    most_motion: float | None = Field(
        default=None,
        gt=0,
        description="frames that differ more than this from the one before are a cut; two scenes mostly differ by 40 to 80",
    )
    unsuitable: Literal["skip", "refuse"] = Field(default="skip", description="what to do with static frames and with cuts")

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.most_motion is not None and self.most_motion < self.least_motion:
            raise ValueError(f"most_motion {self.most_motion:g} is below least_motion {self.least_motion:g}")
        return self


class Window(NamedTuple):
    """The frames of one pair: footage by its index, and the first of its frames."""

    footage: int
    start: int


class FrameSource:
    """Averaged frames; a ``pipeline.contract.PairSource``. Frames are decoded when a pair is asked for."""

    def __init__(self, config: FramesConfig, footage: Sequence[Footage], windows: Sequence[Window]) -> None:
        self.config = config
        used = sorted({w.footage for w in windows})
        self._footage = [footage[i] for i in used]
        self._windows = [Window(used.index(w.footage), w.start) for w in windows]

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        window, count = self._windows[index], self.config.average
        name, frames = self._footage[window.footage]
        cut = [cut_middle(frame, self.config.crop) for frame in frames.read(window.start, window.start + count)]
        middle = count // 2
        return Pair(expose(cut, self.config.gamma), cut[middle], f"{name.replace('/', '__')}__{window.start + middle:06d}", name)

    def digest(self) -> str:
        """64 hex digits over the footage's files, the windows, the options, and the versions of the code that makes the pairs."""
        import cv2
        import numpy as np

        return value_digest(
            {
                "versions": [_VERSION, np.__version__, cv2.__version__],
                "footage": [[f.name, *digests] for f, digests in zip(self._footage, self._digests, strict=True)],
                "windows": [list(w) for w in self._windows],
                "options": [self.config.average, self.config.gamma, self.config.crop],
            }
        )

    def scenes(self) -> Mapping[str, str]:
        """Name of the sequence or video -> digest of its files."""
        return {f.name: joint_digest(digests) for f, digests in zip(self._footage, self._digests, strict=True)}

    @cached_property
    def _digests(self) -> list[list[str]]:
        return [f.frames.digests() for f in self._footage]


def _build(config: FramesConfig, base: Path, seed: int) -> tuple[FrameSource | None, list[Finding]]:
    footage, findings = find_footage(base / config.path.expanduser())
    windows = []
    for i, piece in enumerate(footage):
        starts, wrong = _starts(piece, config)
        windows += [Window(i, start) for start in starts]
        findings += wrong
    return (FrameSource(config, footage, spread(windows, config.limit)) if windows else None), findings


def _starts(footage: Footage, config: FramesConfig) -> tuple[list[int], list[Finding]]:
    """First frames of the suitable windows, and what is wrong."""
    where, frames = str(footage.frames.path), footage.frames
    if len(frames) < config.average:
        hint = "set 'average' to at most that, or leave the sequence out"
        return [], [Finding(UsageError(where, f"has {len(frames)} frames, fewer than the {config.average} of one average", hint))]
    if min(frames.size) < SMALLEST_SIDE:
        what = f"is {frames.size[1]}x{frames.size[0]} pixels; the shorter side must have at least {SMALLEST_SIDE}"
        return [], [Finding(UsageError(where, what, "leave the sequence out"))]
    starts = list(range(0, len(frames) - config.average + 1, config.stride or config.average))
    reasons = {start: _unsuitable(footage, start, config) for start in starts}
    good = [start for start in starts if not reasons[start]]
    wrong = [(start, why) for start, why in reasons.items() if why]
    if not good:
        hint = "change 'least_motion' or 'most_motion', or leave the sequence out"
        return [], [Finding(UsageError(where, f"has no suitable frames: from frame {wrong[0][0]} on, {wrong[0][1]}", hint))]
    if config.unsuitable == "skip":
        return good, []
    hint = "say 'unsuitable: skip' to leave such frames out"
    return good, [Finding(UsageError(where, f"from frame {start} on, {why}", hint)) for start, why in wrong]


def _unsuitable(footage: Footage, start: int, config: FramesConfig) -> str:
    """Why the window is static or holds a cut; "" when it does neither."""
    if config.least_motion == 0 and config.most_motion is None:
        return ""
    steps = footage.frames.steps()[start : start + config.average - 1]
    if config.most_motion is not None and max(steps) > config.most_motion:
        return f"there is a cut: a difference of {max(steps):.1f} levels, above {config.most_motion:g}"
    if sum(steps) / len(steps) < config.least_motion:
        return f"nothing moves: a difference of {sum(steps) / len(steps):.2f} levels, below {config.least_motion:g}"
    return ""


READER = checked_reader(FramesConfig, _build)
