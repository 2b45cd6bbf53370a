"""Images of any size through a network of fixed or bounded input size: overlapping tiles, of which only the safe middle is kept.

Tiles start at multiples of the network's size multiple and touch the image's borders instead of reaching beyond them, so a network
without global operations sees at every kept pixel what it would see in the whole image, as long as the halo covers its receptive
field: the result is the same, and there is nothing to blend. Where a network pools over its whole input, each tile is its own window:
the statistics change from tile to tile, and the step at each cut is spread over the overlap that the halo needs anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from eval.quality import Image, to_batch, to_image
from eval.receptive import Receptive
from pipeline.errors import StageFailed, UsageError

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""float32 [1, 3, H, W] in [0, 1] -> float32 [1, 3, H, W], H and W the tile's."""

OnTile = Callable[[int, int], None]
"""Called with the number of tiles done and their total."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile: its input starts at (y, x) and has the plan's tile size; rows top..bottom and columns left..right of the image are kept."""

    y: int
    x: int
    top: int
    bottom: int
    left: int
    right: int


@dataclass(frozen=True, slots=True)
class TilePlan:
    """How an image is cut: rows of tiles, top to bottom, each left to right, all of size tile_height x tile_width.

    With ``blend``, neighbours are mixed over that many pixels, half of them on either side of each cut.
    """

    height: int
    width: int
    tile_height: int
    tile_width: int
    rows: tuple[tuple[Tile, ...], ...]
    blend: int = 0

    def __len__(self) -> int:
        """Number of tiles."""
        return sum(map(len, self.rows))


@dataclass(frozen=True, slots=True)
class Band:
    """Finished rows of the result: uint8 [rows, W, 3] from row ``y`` on."""

    y: int
    pixels: Image


@dataclass(frozen=True, slots=True)
class Overlap:
    """How tiles of one size overlap: least halo in pixels, pixels over which neighbours are mixed, and why tiled may not equal whole."""

    halo: int
    blend: int
    why: str = ""


def overlap_for(receptive: Receptive, tile: int) -> Overlap:
    """The overlap of tiles of ``tile`` pixels along the axis that is cut.

    The halo is the receptive field, but at most a quarter of the tile: half of each tile is kept, and what the network sees further
    away counts for little. Where tiles cannot give exactly the whole image's result, cuts are mixed over half the overlap.
    """
    halo = min(receptive.halo, tile // 4)
    reasons = []
    if halo < receptive.halo:
        reasons.append(f"the network sees {receptive.halo} pixels far, tiles of {tile} overlap by {halo} on each side")
    if receptive.whole:
        reasons.append(f"{receptive.counted()} on the whole image, here on its tile")
    return Overlap(halo, halo // 2 * 2 if reasons else 0, "; ".join(reasons))


def roomy_tile(receptive: Receptive, least: int, multiple: int) -> int:
    """Side of a square tile of at least ``least`` pixels, a multiple, of which the halo takes no more than half."""
    return -(-max(least, 4 * receptive.halo) // multiple) * multiple


def tile_plan(height: int, width: int, tile: int | tuple[int, int], halo: int, multiple: int = 1, blend: int = 0) -> TilePlan:
    """Cut an image into tiles; every pixel is kept from exactly one of them, but near a cut where neighbours are mixed.

    Args:
        height: rows of the image in pixels.
        width: columns of the image in pixels.
        tile: size of the tiles, (height, width) or one number for both.
        halo: least distance in pixels of a cut from a tile's inner edge.
        multiple: tile sizes must be, and tile positions will be, multiples of this.
        blend: pixels over which neighbours are mixed, at most the halo; fewer where tiles are cut closer than that.

    Raises:
        UsageError: an empty image, a tile that is no multiple, or one too small for the halo.

    """
    tile_h, tile_w = (tile, tile) if isinstance(tile, int) else tile
    if height < 1 or width < 1:
        raise UsageError("image", f"is {width}x{height} pixels", "give an image with at least one pixel")
    rows = _cut(height, tile_h, halo, multiple)
    columns = _cut(width, tile_w, halo, multiple)
    tiles = tuple(tuple(Tile(y, x, top, bottom, left, right) for x, left, right in columns) for y, top, bottom in rows)
    closest = min((end - start for axis in (rows, columns) for _, start, end in axis[len(axis) == 1 :]), default=0)
    return TilePlan(height, width, tile_h, tile_w, tiles, min(blend, halo, closest) // 2 * 2)


def _cut(size: int, tile: int, halo: int, multiple: int) -> list[tuple[int, int, int]]:
    """(start, keep from, keep to) of the tiles along one axis; cuts lie in the middle of each overlap."""
    if tile < 1 or tile % multiple:
        hint = f"use a positive multiple, e.g. {max(multiple, round(tile / multiple) * multiple)}"
        raise UsageError("tile", f"{tile} is no multiple of the network's size multiple {multiple}", hint)
    last = max(0, -(-size // multiple) * multiple - tile)
    step = (tile - 2 * halo) // multiple * multiple
    if last and (step < 1 or halo < 0):
        hint = f"use tiles of at least {-(-(2 * halo + 1) // multiple) * multiple} pixels"
        raise UsageError("tile", f"{tile} pixels leave nothing inside a halo of {halo} on both sides", hint)
    count = -(-last // step) + 1 if last else 1
    starts = [last * k // max(1, count - 1) // multiple * multiple for k in range(count)]
    cuts = [0, *((a + tile + b) // 2 for a, b in pairwise(starts)), size]
    return list(zip(starts, cuts, cuts[1:], strict=False))


def restore_bands(image: Image, run: Run, plan: TilePlan, on_tile: OnTile | None = None) -> Iterator[Band]:
    """Restore an image and hand out its rows as they are finished; holds one row of tiles at a time.

    Where the last tiles reach beyond the image it is mirrored.

    Args:
        image: uint8 RGB [H, W, 3] of the plan's size.
        run: the network at the plan's tile size.
        plan: from ``tile_plan``.
        on_tile: told after every tile.

    Raises:
        UsageError: the image is not of the plan's size.
        StageFailed: the network returns NaN.

    """
    if image.shape[:2] != (plan.height, plan.width):
        raise UsageError(
            "image", f"is {image.shape[1]}x{image.shape[0]}, the plan is for {plan.width}x{plan.height}", "plan for this image"
        )
    done = 0

    def restored(tile: Tile) -> NDArray[np.float32]:
        nonlocal done
        out = run(to_batch(_window(image, tile, plan)))
        done += 1
        if on_tile is not None:
            on_tile(done, len(plan))
        return out

    yield from (_mixed_bands if plan.blend else _cut_bands)(plan, restored)


def _cut_bands(plan: TilePlan, restored: Callable[[Tile], NDArray[np.float32]]) -> Iterator[Band]:
    for row in plan.rows:
        top, bottom = row[0].top, row[0].bottom
        band = np.empty((bottom - top, plan.width, 3), np.uint8)
        for tile in row:
            out = to_image(restored(tile))
            band[:, tile.left : tile.right] = out[top - tile.y : bottom - tile.y, tile.left - tile.x : tile.right - tile.x]
        yield Band(top, band)


def _mixed_bands(plan: TilePlan, restored: Callable[[Tile], NDArray[np.float32]]) -> Iterator[Band]:
    """As ``_cut_bands``; rows that the next tiles have a part in are held back."""
    half = plan.blend // 2
    rising = ((np.arange(plan.blend) + 0.5) / plan.blend).astype(np.float32)[:, None]
    held: NDArray[np.float32] | None = None
    for row in plan.rows:
        top, bottom = _widened(row[0].top, row[0].bottom, plan.height, half)
        band = np.zeros((bottom - top, plan.width, 3), np.float32)
        for tile in row:
            left, right = _widened(tile.left, tile.right, plan.width, half)
            part = _levels(restored(tile))[top - tile.y : bottom - tile.y, left - tile.x : right - tile.x]
            if tile.left:
                part[:, : plan.blend] *= rising
            if tile.right < plan.width:
                part[:, -plan.blend :] *= 1 - rising
            band[:, left:right] += part
        if held is not None:
            band[: plan.blend] = band[: plan.blend] * rising[:, :, None] + held * (1 - rising[:, :, None])
        last = bottom == plan.height
        held = None if last else band[-plan.blend :].copy()
        yield Band(top, np.rint(band if last else band[: -plan.blend]).astype(np.uint8))


def _widened(start: int, end: int, size: int, by: int) -> tuple[int, int]:
    return (start - by if start else 0, end + by if end < size else size)


def _levels(batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 [1, 3, H, W] -> float32 [H, W, 3] in [0, 255], not rounded; a NaN raises."""
    if not np.isfinite(batch).all():
        raise StageFailed(
            "eval.tiling", "the network returned NaN or infinity", "look at the stage before: its weights or scales are broken"
        )
    out: NDArray[np.float32] = np.clip(batch[0], 0.0, 1.0).transpose(1, 2, 0) * np.float32(255)
    return out


def restore_tiled(image: Image, run: Run, plan: TilePlan, on_tile: OnTile | None = None) -> Image:
    """Restore a whole image by tiles: uint8 RGB [H, W, 3] -> the same. Arguments and errors as ``restore_bands``."""
    out = np.empty_like(image)
    for band in restore_bands(image, run, plan, on_tile):
        out[band.y : band.y + len(band.pixels)] = band.pixels
    return out


def _window(image: Image, tile: Tile, plan: TilePlan) -> Image:
    rows = mirrored(tile.y, plan.tile_height, plan.height)
    columns = mirrored(tile.x, plan.tile_width, plan.width)
    return image[rows[:, None], columns]


def mirrored(start: int, count: int, size: int) -> NDArray[np.intp]:
    """Indices start .. start + count - 1 into an axis of ``size``, mirrored at its ends without repeating them, as often as needed."""
    period = max(1, 2 * (size - 1))
    folded = np.arange(start, start + count) % period
    return np.minimum(folded, period - folded) if size > 1 else np.zeros(count, np.intp)
