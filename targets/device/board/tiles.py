"""Images of any size through a network: at once where it takes any size, else in tiles cut as the pipeline cuts them."""

from typing import Any, Callable, List, Tuple

import numpy as np
from board.basics import DeviceError, Json

OnTile = Callable[[int, int], None]


def mirrored(start: int, count: int, size: int) -> Any:
    """Indices start .. start + count - 1 into an axis of ``size``, mirrored at its ends without repeating them."""
    if size == 1:
        return np.zeros(count, np.intp)
    folded = np.arange(start, start + count) % (2 * (size - 1))
    return np.minimum(folded, 2 * (size - 1) - folded)


def cuts(size: int, tile: int, halo: int, multiple: int) -> List[Tuple[int, int, int]]:
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


def to_image(batch: Any, rows: int = 32) -> Any:
    """float32 [1, 3, H, W] -> uint8 [H, W, 3], so many rows at a time that they stay in the CPU's cache."""
    height, width = batch.shape[2:]
    out = np.empty((height, width, 3), np.uint8)
    for y in range(0, height, rows):
        values = batch[0, :, y : y + rows] * np.float32(255)
        if not (np.isfinite(values.min()) and np.isfinite(values.max())):
            raise DeviceError("the network returns values that are no numbers: run 'python3 run.py --verify'")
        np.clip(np.rint(values, out=values), 0, 255, out=values)
        out[y : y + rows] = values.transpose(1, 2, 0)
    return out


class Restorer:
    """Restores whole images.

    run       float32 [1, 3, h, w] -> the same
    artifact  its entry in bundle.json
    multiple  height and width of what the network gets are multiples of this
    """

    def __init__(self, run: Callable[[Any], Any], artifact: Json, multiple: int) -> None:
        self.run, self.multiple, self.halo = run, multiple, int(artifact["halo"])
        self.tile = (int(artifact["tile"][0]), int(artifact["tile"][1]))
        self.fixed = bool(artifact["height"])

    def tile_of(self, height: int, width: int) -> Tuple[int, int]:
        """Size of the tiles for an image: the artifact's; where that is free no larger than the image needs."""
        if self.fixed:
            return self.tile
        needed = [-(-n // self.multiple) * self.multiple for n in (height, width)]
        return min(self.tile[0], needed[0]), min(self.tile[1], needed[1])

    def plan(self, height: int, width: int) -> Tuple[List[Tuple[int, int, int]], List[Tuple[int, int, int]]]:
        """Cuts of the rows and of the columns."""
        tile = self.tile_of(height, width)
        return cuts(height, tile[0], self.halo, self.multiple), cuts(width, tile[1], self.halo, self.multiple)

    def __call__(self, image: Any, on_tile: "OnTile" = lambda done, total: None) -> Any:
        """Restore uint8 [H, W, 3]; ``on_tile`` is told after every tile."""
        height, width = image.shape[:2]
        tile = self.tile_of(height, width)
        rows, columns = self.plan(height, width)
        out, done = np.empty_like(image), 0
        for y, top, bottom in rows:
            lines = image[mirrored(y, tile[0], height)]
            for x, left, right in columns:
                got = to_image(self.run(to_batch(lines[:, mirrored(x, tile[1], width)])))
                out[top:bottom, left:right] = got[top - y : bottom - y, left - x : right - x]
                done += 1
                on_tile(done, len(rows) * len(columns))
        return out
