"""Random training crops of a pair source, decided by (seed, k) alone.

There is no hidden state: training resumes exactly by going on at the next k, and N processes share the work by taking disjoint k.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.contract import Pair, PairSource

CACHE_BYTES = 512 * 2**20


class PairCache:
    """Decoded pairs of a source, the least recently used dropped when they exceed ``limit`` bytes.

    Safe to use from several threads; a copy sent to another process starts empty.
    """

    def __init__(self, source: PairSource, limit: int = CACHE_BYTES) -> None:
        self.source, self.limit = source, limit
        self._reset()

    def __getitem__(self, index: int) -> Pair:
        with self._lock:
            if index in self._pairs:
                self._pairs.move_to_end(index)
                return self._pairs[index]
        pair = self.source[index]
        self._keep(index, pair)
        return pair

    @property
    def bytes(self) -> int:
        """Bytes of the images that are held."""
        return self._bytes

    def _keep(self, index: int, pair: Pair) -> None:
        with self._lock:
            if index in self._pairs:
                return
            self._pairs[index] = pair
            self._bytes += _bytes_of(pair)
            while self._bytes > self.limit:
                self._bytes -= _bytes_of(self._pairs.popitem(last=False)[1])

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._pairs: OrderedDict[int, Pair] = OrderedDict()
        self._bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        return {"source": self.source, "limit": self.limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()


class CropDataset:
    """Map-style data set of ``length`` random crops, for a torch DataLoader (with workers) or a plain loop; torch is not needed.

    Item k is (lq, gt), float32 [3, crop, crop] in [0, 1], of one pair, at one place, turned and mirrored alike. Items 0 .. n-1 go
    through the n pairs in random order, n .. 2n-1 in another, and so on. Everything follows from (seed, k).

    Args:
        source: the pairs; its images must be at least ``crop`` on each side.
        crop: side of a crop in pixels.
        seed: at least 0.
        length: number of items; a larger one changes none of the former items.
        augment: turn by multiples of 90 degrees and mirror, at random.
        cache_bytes: memory for decoded pairs, in each process.
    """

    def __init__(
        self, source: PairSource, crop: int, seed: int, length: int, *, augment: bool = True, cache_bytes: int = CACHE_BYTES
    ) -> None:
        if crop < 1 or length < 0 or len(source) == 0:
            raise ValueError(f"no crops of {crop} pixels from {len(source)} pairs, {length} times")
        self.crop, self.seed, self.length, self.augment = crop, seed, length, augment
        self._pairs, self._count = PairCache(source, cache_bytes), len(source)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, k: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if not 0 <= k < self.length:
            raise IndexError(f"crop {k} of {self.length}")
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, k])))
        pair = self._pairs[int(_order(self.seed, k // self._count, self._count)[k % self._count])]
        free = pair.lq.shape[0] - self.crop, pair.lq.shape[1] - self.crop
        if min(free) < 0:
            what = f"is {pair.lq.shape[1]}x{pair.lq.shape[0]} pixels, smaller than the training crop of {self.crop}"
            raise UsageError(f"image '{pair.name}'", what, f"set the crop to at most {min(pair.lq.shape[:2])}, or leave the image out")
        top, left = int(rng.integers(free[0] + 1)), int(rng.integers(free[1] + 1))
        turns, mirror = (int(rng.integers(4)), bool(rng.integers(2))) if self.augment else (0, False)
        lq, gt = (image[top : top + self.crop, left : left + self.crop] for image in (pair.lq, pair.gt))
        return _tensor(lq, turns, mirror), _tensor(gt, turns, mirror)


def fixed_batch(dataset: CropDataset, count: int, start: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Items ``start`` .. ``start + count - 1`` stacked: (lq, gt), float32 [count, 3, crop, crop] in [0, 1]."""
    lq, gt = zip(*(dataset[k] for k in range(start, start + count)), strict=True)
    return np.stack(lq), np.stack(gt)


@lru_cache(maxsize=8)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """A random order of ``count`` pairs."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, count]))).permutation(count)


def _tensor(image: NDArray[np.uint8], turns: int, mirror: bool) -> NDArray[np.float32]:
    turned = np.rot90(image[:, ::-1] if mirror else image, turns)
    return np.ascontiguousarray(turned.transpose(2, 0, 1), np.float32) / np.float32(255)


def _bytes_of(pair: Pair) -> int:
    return pair.lq.nbytes + pair.gt.nbytes
