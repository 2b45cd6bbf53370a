"""Does an image in tiles come out as the whole image does? Measured on images, with one network run both ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.quality import Image
from eval.receptive import Receptive
from eval.tiling import Overlap, Run, TilePlan, overlap_for, restore_tiled, tile_plan
from pipeline.contract import Better, Evidence, Measurement

SAME_LSB = 1
"""Levels of 8 bits up to which two images are the same: the order of additions decides how a value that lies between two is rounded."""


@dataclass(frozen=True, slots=True)
class Seams:
    """Differences of the tiled from the whole image, in levels of 8 bits (LSB).

    largest   of all values
    mean      of all values
    share     of values that differ by more than ``SAME_LSB``
    step      mean jump of the difference from one side of a cut to the other, less the same elsewhere: what an eye could see as a line
    tiles     how many there were
    """

    largest: int
    mean: float
    share: float
    step: float
    tiles: int


def whole_plan(height: int, width: int, tile: tuple[int, int], multiple: int) -> TilePlan:
    """One tile as large as what tiles of that size cover: smaller images are mirrored up to a tile's size in both cases."""
    sides = tuple(max(-(-length // multiple) * multiple, side) for length, side in zip((height, width), tile, strict=True))
    return tile_plan(height, width, (sides[0], sides[1]), 0, multiple)


def seams_of(image: Image, run: Run, tile: tuple[int, int], overlap: Overlap, multiple: int, whole: Run | None = None) -> Seams:
    """Restore an image in tiles and at once, and compare.

    Args:
        image: uint8 RGB [H, W, 3].
        run: the network at the tile's size.
        tile: height and width in pixels.
        overlap: halo, and how neighbours are mixed.
        multiple: the network's size multiple.
        whole: the network at the whole image's size, where that is another function.

    Raises:
        StageFailed: the network returns NaN.

    """
    height, width = image.shape[:2]
    plan = tile_plan(height, width, tile, overlap.halo, multiple, overlap.blend)
    one = restore_tiled(image, whole or run, whole_plan(height, width, tile, multiple))
    change = restore_tiled(image, run, plan).astype(np.int16) - one
    size = np.abs(change)
    rows = [row[0].top for row in plan.rows[1:]]
    columns = [tile.left for tile in plan.rows[0][1:]]
    step = np.mean([*_steps(change, rows), *_steps(change.transpose(1, 0, 2), columns)]) if rows or columns else 0.0
    return Seams(int(size.max()), float(size.mean()), float((size > SAME_LSB).mean()), float(step), len(plan))


def _steps(change: NDArray[np.int16], cuts: Sequence[int]) -> list[float]:
    jumps = np.abs(np.diff(change, axis=0)).mean(axis=(1, 2)) if cuts else np.zeros(1)
    return [float(jumps[cut - 1] - jumps.mean()) for cut in cuts]


def seam_measurements(
    images: Sequence[Image], run: Run, receptive: Receptive, tile: tuple[int, int], multiple: int, whole: Run | None = None
) -> list[Measurement]:
    """tile_difference (largest over the images, LSB) and tile_step (mean, LSB) of a network of free size on images larger than a tile.

    Args:
        images: uint8 RGB, at least one.
        run: the network; arguments and errors as ``seams_of``.
        receptive: how far it sees.
        tile: height and width in pixels.
        multiple: the network's size multiple.
        whole: the network at the whole image's size, where that is another function.

    """
    overlap = overlap_for(receptive, min(tile))
    found = [seams_of(image, run, tile, overlap, multiple, whole) for image in images]
    conditions = {
        "tile": f"{tile[1]}x{tile[0]}",
        "halo": overlap.halo,
        "sees": receptive.halo,
        "blend": overlap.blend,
        "whole_image_operations": len(receptive.whole),
        "mean": round(float(np.mean([s.mean for s in found])), 4),
        "share_above_1": round(float(np.mean([s.share for s in found])), 6),
    }
    largest = float(max(s.largest for s in found))
    step = float(np.mean([s.step for s in found]))
    return [
        Measurement("tile_difference", largest, "LSB", Better.LOWER, len(found), Evidence.HOST, conditions),
        Measurement("tile_step", step, "LSB", Better.LOWER, len(found), Evidence.HOST, conditions),
    ]


def seam_note(rows: Sequence[Measurement], receptive: Receptive) -> str:
    """One line for a report, from ``seam_measurements``: that both are equal only where nothing stands against it and it was measured."""
    largest, step = (next(row for row in rows if row.name == name) for name in ("tile_difference", "tile_step"))
    said = largest.conditions
    tiles = f"tiles of {said['tile']} overlapping by {said['halo']} pixels a side"
    images = f"on {largest.samples} image{'s' * (largest.samples != 1)}"
    found = f"up to {largest.value:.0f} LSB (mean {said['mean']:.3f}) {images}"
    why = overlap_for(receptive, min(int(side) for side in str(said["tile"]).split("x"))).why
    jumps = f"steps of {step.value:.3f} LSB"
    if why:
        return f"{tiles} differ from the whole image by {found}, since {why}; mixed over {said['blend']} pixels, {jumps}"
    if largest.value <= SAME_LSB:
        return f"{tiles} give what the whole image gives, within {SAME_LSB} LSB: {found}"
    return f"{tiles} differ from the whole image by {found}, though the network sees no further and nothing draws on all of it; {jumps}"
