"""Images of any size through a network: at once where it takes any size, else in tiles cut, and mixed, as the pipeline does it."""

from typing import Any, Callable, Iterator, List, Tuple

import numpy as np
from board.basics import DeviceError, Json

OnTile = Callable[[int, int], None]

Cut = Tuple[int, int, int]
"""Along one axis: where a tile starts, and from where to where its pixels are kept."""


def mirrored(start: int, count: int, size: int) -> Any:
    """Indices start .. start + count - 1 into an axis of ``size``, mirrored at its ends without repeating them."""
    if size == 1:
        return np.zeros(count, np.intp)
    folded = np.arange(start, start + count) % (2 * (size - 1))
    return np.minimum(folded, 2 * (size - 1) - folded)


def cuts(size: int, tile: int, halo: int, multiple: int) -> List[Cut]:
    """(start, keep from, keep to) of the tiles along one axis."""
    last = max(0, -(-size // multiple) * multiple - tile)
    step = (tile - 2 * halo) // multiple * multiple
    if last and (step < 1 or halo < 0):
        raise DeviceError("tiles of {} pixels leave nothing inside a halo of {} on both sides".format(tile, halo))
    count = -(-last // step) + 1 if last else 1
    starts = [last * k // max(1, count - 1) // multiple * multiple for k in range(count)]
    edges = [0, *((starts[k - 1] + tile + starts[k]) // 2 for k in range(1, count)), size]
    return [(starts[k], edges[k], edges[k + 1]) for k in range(count)]


def to_batch(image: Any) -> Any:
    """uint8 [H, W, 3] -> float32 [1, 3, H, W] in [0, 1]."""
    out = np.empty((1, 3, *image.shape[:2]), np.float32)
    np.multiply(image.transpose(2, 0, 1), np.float32(1 / 255), out=out[0], casting="unsafe")
    return out


def to_levels(values: Any) -> Any:
    """float32 in [0, 1] -> a new array in [0, 255], clipped and not rounded."""
    if not (np.isfinite(values.min()) and np.isfinite(values.max())):
        raise DeviceError("the network returns values that are no numbers: run 'python3 run.py --verify'")
    levels = values * np.float32(255)
    return np.clip(levels, 0, 255, out=levels)


def to_image(batch: Any, rows: int = 32) -> Any:
    """float32 [1, 3, H, W] -> uint8 [H, W, 3], so many rows at a time that they stay in the CPU's cache."""
    height, width = batch.shape[2:]
    out = np.empty((height, width, 3), np.uint8)
    for y in range(0, height, rows):
        levels = to_levels(batch[0, :, y : y + rows])
        out[y : y + rows] = np.rint(levels, out=levels).transpose(1, 2, 0)
    return out


class Restorer:
    """Restores whole images.

    run       float32 [1, 3, h, w] -> the same
    artifact  its entry in bundle.json; one of before tiles were mixed has no "blend"
    multiple  height and width of what the network gets are multiples of this
    """

    def __init__(self, run: Callable[[Any], Any], artifact: Json, multiple: int) -> None:
        self.run, self.multiple = run, multiple
        self.halo, self.blend = int(artifact["halo"]), int(artifact.get("blend", 0))
        self.tile = (int(artifact["tile"][0]), int(artifact["tile"][1]))
        self.fixed = bool(artifact["height"])

    def tile_of(self, height: int, width: int) -> Tuple[int, int]:
        """Size of the tiles for an image: the artifact's; where that is free no larger than the image needs."""
        if self.fixed:
            return self.tile
        needed = [-(-n // self.multiple) * self.multiple for n in (height, width)]
        return min(self.tile[0], needed[0]), min(self.tile[1], needed[1])

    def plan(self, height: int, width: int) -> Tuple[List[Cut], List[Cut]]:
        """Cuts of the rows and of the columns."""
        tile = self.tile_of(height, width)
        return cuts(height, tile[0], self.halo, self.multiple), cuts(width, tile[1], self.halo, self.multiple)

    def blend_of(self, rows: List[Cut], columns: List[Cut]) -> int:
        """Pixels over which neighbours are mixed: the artifact's, fewer where tiles are cut closer than that."""
        kept = [end - start for axis in (rows, columns) for _, start, end in axis[len(axis) == 1 :]]
        return min([self.blend, self.halo, *kept]) // 2 * 2 if kept else 0

    def __call__(self, image: Any, on_tile: "OnTile" = lambda done, total: None) -> Any:
        """Restore uint8 [H, W, 3]; ``on_tile`` is told after every tile."""
        rows, columns = self.plan(*image.shape[:2])
        blend, out = self.blend_of(rows, columns), np.empty_like(image)
        tiles = self._restored(image, rows, columns, on_tile)
        if blend:
            mix(out, rows, columns, blend, tiles)
            return out
        for y, top, bottom in rows:
            for x, left, right in columns:
                got = to_image(next(tiles))
                out[top:bottom, left:right] = got[top - y : bottom - y, left - x : right - x]
        return out

    def _restored(self, image: Any, rows: List[Cut], columns: List[Cut], on_tile: "OnTile") -> Iterator[Any]:
        """The network's output for every tile, row by row."""
        height, width = image.shape[:2]
        tile, done = self.tile_of(height, width), 0
        for y, _, _ in rows:
            lines = image[mirrored(y, tile[0], height)]
            for x, _, _ in columns:
                got = self.run(to_batch(lines[:, mirrored(x, tile[1], width)]))
                done += 1
                on_tile(done, len(rows) * len(columns))
                yield got


def mix(out: Any, rows: List[Cut], columns: List[Cut], blend: int, tiles: Iterator[Any]) -> None:
    """Fill ``out``, uint8 [H, W, 3], from outputs of tiles whose weights rise over ``blend`` pixels around each cut and fall as they rise.

    Rows that the next tiles have a part in are held back.
    """
    height, width = out.shape[:2]
    half, held = blend // 2, None  # type: Tuple[int, Any]
    rising = ((np.arange(blend) + 0.5) / blend).astype(np.float32)
    for y, first, end in rows:
        top, bottom = widened(first, end, height, half)
        band = np.zeros((3, bottom - top, width), np.float32)
        for x, start, stop in columns:
            left, right = widened(start, stop, width, half)
            part = to_levels(next(tiles)[0])[:, top - y : bottom - y, left - x : right - x]
            if start:
                part[:, :, :blend] *= rising
            if stop < width:
                part[:, :, -blend:] *= 1 - rising
            band[:, :, left:right] += part
        if held is not None:
            band[:, :blend] = band[:, :blend] * rising[:, None] + held * (1 - rising[:, None])
        held, done = (None, bottom) if bottom == height else (band[:, -blend:].copy(), bottom - blend)
        out[top:done] = np.rint(band[:, : done - top]).transpose(1, 2, 0)


def widened(start: int, end: int, size: int, by: int) -> Tuple[int, int]:
    """What is kept of a tile along one axis, and ``by`` pixels more where a neighbour follows."""
    return (start - by if start else 0), (end + by if end < size else size)
