"""Images as the candidates see them: the first of a set, whole images through a session, and tiles cut from them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from eval.quality import Image, Restorer, session_restorer
from eval.receptive import Receptive
from eval.session import Session
from eval.tiling import mirrored, overlap_for, restore_tiled, tile_plan
from pipeline.contract import Pair, PairSource


class First:
    """The first pairs of a source (all of them with 0)."""

    def __init__(self, source: PairSource, count: int) -> None:
        self._source, self._count = source, min(count or len(source), len(source))

    def __len__(self) -> int:
        """Number of pairs."""
        return self._count

    def __getitem__(self, index: int) -> Pair:
        """Pair at ``index``."""
        return self._source[index]

    def digest(self) -> str:
        """Of the whole source."""
        return self._source.digest()

    def scenes(self) -> Mapping[str, str]:
        """Of the whole source."""
        return self._source.scenes()


class Tiles(First):
    """The middles of the first pairs of a source, of a height and width in pixels, cut once."""

    def __init__(self, source: PairSource, count: int, size: tuple[int, int]) -> None:
        super().__init__(source, count)
        pairs = (source[i] for i in range(len(self)))
        self._tiles = [Pair(tile_of(p.lq, *size), tile_of(p.gt, *size), p.name, p.scene) for p in pairs]

    def __getitem__(self, index: int) -> Pair:
        """Tile at ``index``."""
        return self._tiles[index]


def restorer_of(session: Session, multiple: int, receptive: Receptive, tile: tuple[int, int] = (0, 0)) -> Restorer:
    """Restore whole images with a session: at once where its size is free, else in tiles that overlap by what the network sees.

    Args:
        session: what restores.
        multiple: of the network's input.
        receptive: how far an output pixel sees.
        tile: height and width in pixels of the tiles that a session of free size takes all the same; zeros: none.

    """
    tile = (session.height, session.width) if session.height else tile
    if not tile[0]:
        return session_restorer(session, multiple)
    overlap = overlap_for(receptive, min(tile))

    def run(image: Image) -> Image:
        return restore_tiled(image, session.run, tile_plan(image.shape[0], image.shape[1], tile, overlap.halo, multiple, overlap.blend))

    return run


def tile_of(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Cut the middle of an image [H, W, 3], mirrored beyond its borders where it is too small."""
    rows = mirrored((image.shape[0] - height) // 2, height, image.shape[0])
    columns = mirrored((image.shape[1] - width) // 2, width, image.shape[1])
    return np.ascontiguousarray(image[rows[:, None], columns])
