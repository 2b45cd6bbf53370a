"""Random training crops of a pair source, decided by (seed, k) alone.

There is no hidden state: training resumes exactly by going on at the next k, and N processes share the work by taking disjoint k.

A set whose decoded pairs fit into memory is decoded once. Of a larger one, each pair is decoded once for several crops that lie some
steps apart (``Visits``), so that decoding a whole frame for each small crop does not hold up the training.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from data.augment import Augment, Jitter, resized
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.contract import Pair, PairSource

__all__ = ["CACHE_BYTES", "Augment", "Beside", "CropDataset", "Jitter", "PairCache", "Visits", "beyond_turns", "fixed_batch"]

CACHE_BYTES = 512 * 2**20

_MOST_VISITS = 16  # crops of a decoded pair, in a set that does not fit into CACHE_BYTES
_LARGEST_LAG = 32


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


@dataclass(frozen=True, slots=True)
class Visits:
    """Which place in the order of the pairs item k takes: ``each`` items per pair, ``lag`` pairs apart from one another.

    ``each`` lanes walk through the same order, each ``lag`` places behind the one before, and items take the lanes in turn. Only the
    first lane meets pairs that were not met before, one in every ``each`` items; between two visits of a pair there are ``each * lag``
    others, so many are held. Neighbouring items are of different pairs.
    """

    each: int
    lag: int

    def place(self, k: int) -> int:
        """Place of item ``k``, counted over all rounds through the pairs."""
        return k // self.each + (self.each - 1 - k % self.each) * self.lag

    @classmethod
    def of(cls, count: int, bytes_each: int, room: int) -> Visits:
        """One visit where ``count`` pairs of ``bytes_each`` bytes fit into CACHE_BYTES; else several, as far apart as they fit.

        ``room`` is the number of crops that lie side by side in a pair: no more visits than that. Both numbers are powers of two, so
        that a data process, which sees every n-th batch, meets its own pairs again.
        """
        held = CACHE_BYTES * 3 // 4 // bytes_each  # some room for frames of other sizes
        each, lag = 1, 1
        while 2 * each <= min(_MOST_VISITS, room, held - 1):
            each *= 2
        while 2 * lag <= min(_LARGEST_LAG, (held - 1) // each):
            lag *= 2
        return cls(1, 0) if each == 1 or count * bytes_each <= CACHE_BYTES else cls(each, lag)


class Beside(Protocol):
    """What is known of every image beside its pixels, e.g. a teacher's answers to it, and is cut in step with the crops."""

    align: int
    """Crops begin at multiples of this many pixels, and their sides are such."""

    def cut(self, index: int, top: int, left: int, side: int) -> Sequence[NDArray[Any]]:
        """What belongs to that square of image ``index``: any number of arrays [h, w, C], squares too, of the caller's own."""


class CropDataset:
    """Map-style data set of ``length`` random crops, for a torch DataLoader (with workers) or a plain loop; torch is not needed.

    Item k is (lq, gt), float32 [3, side, side] in [0, 1], of one pair, at one place, augmented alike. Items 0 .. n-1 go through the n
    pairs in random order, n .. 2n-1 in another, and so on; ``Visits`` says how this differs where the pairs exceed CACHE_BYTES.
    Everything follows from (seed, k). With ``beside`` an item is (lq, gt, *more): its arrays as [C, h, w], turned and mirrored alike.

    Args:
        source: the pairs; its images must be at least as large as the crops.
        crop: side of a crop in pixels.
        seed: at least 0.
        length: number of items; a larger one changes none of the former items.
        augment: what is changed at random.
        crops: (first k, side) pairs: from that item on the side is another, up to the next entry; in the order of k.
        cache_bytes: memory for decoded pairs, in each process; changes no item.
        beside: what else an item holds.

    Raises:
        ValueError: no pairs, a side below 1, a negative length, ``crops`` out of order, or augmentation that ``beside`` cannot follow.
    """

    def __init__(
        self,
        source: PairSource,
        crop: int,
        seed: int,
        length: int,
        augment: Augment = Augment(),  # noqa: B008 - immutable
        crops: Sequence[tuple[int, int]] = (),
        *,
        cache_bytes: int = CACHE_BYTES,
        beside: Beside | None = None,
    ) -> None:
        if min([crop, *(side for _, side in crops)]) < 1 or length < 0 or len(source) == 0:
            raise ValueError(f"no crops of {crop} pixels from {len(source)} pairs, {length} times")
        if list(crops) != sorted(crops):
            raise ValueError(f"crops are not in the order of k: {list(crops)}")
        if beside is not None and beyond_turns(augment):
            raise ValueError(f"what stands beside the images cannot follow the augmentation's {', '.join(beyond_turns(augment))}")
        self.crop, self.seed, self.length, self.augment, self.crops, self.beside = crop, seed, length, augment, tuple(crops), beside
        self._pairs, self.count = PairCache(source, cache_bytes), len(source)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, k: int) -> tuple[NDArray[Any], ...]:
        if not 0 <= k < self.length:
            raise IndexError(f"crop {k} of {self.length}")
        seeds = np.random.SeedSequence([self.seed, k])
        rng = np.random.Generator(np.random.Philox(seeds))
        pair, side = self._pairs[self.index(k)], self.side(k)
        _require_size(pair, side)
        window = self.augment.window(side, min(pair.lq.shape[:2]), seeds)
        align = self.beside.align if self.beside is not None else 1
        top, left = (int(rng.integers(length - window + 1)) // align * align for length in pair.lq.shape[:2])
        turns, mirror = self.augment.turn(rng)
        cut = slice(top, top + window), slice(left, left + window)
        lq, gt = (_tensor(resized(image[cut], side), turns, mirror) for image in (pair.lq, pair.gt))
        more = self.beside.cut(self.index(k), top, left, side) if self.beside is not None else ()
        return *self.augment.recolour(lq, gt, seeds), *(_turned(array, turns, mirror) for array in more)

    def side(self, k: int) -> int:
        """Side of item ``k`` in pixels."""
        entry = bisect_right([first for first, _ in self.crops], k)
        return self.crops[entry - 1][1] if entry else self.crop

    def index(self, k: int) -> int:
        """Index of the pair that item ``k`` is cut from."""
        place = self.visits.place(k)
        return int(_order(self.seed, place // self.count, self.count)[place % self.count])

    @cached_property
    def visits(self) -> Visits:
        """How often a decoded pair is used; decided by the number of pairs, the size of the first, and the largest side of a crop."""
        first, side = self._pairs[0], max([self.crop, *(side for _, side in self.crops)])
        return Visits.of(self.count, _bytes_of(first), (first.lq.shape[0] // side) * (first.lq.shape[1] // side))


def fixed_batch(dataset: CropDataset, count: int, start: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Items ``start`` .. ``start + count - 1`` stacked: (lq, gt), float32 [count, 3, crop, crop] in [0, 1]."""
    lq, gt = zip(*(dataset[k][:2] for k in range(start, start + count)), strict=True)
    return np.stack(lq), np.stack(gt)


def beyond_turns(augment: Augment) -> tuple[str, ...]:
    """The settings of ``augment`` that change more than an image's orientation."""
    changes = {"scale": augment.scale, "noise": augment.noise, "channel_shuffle": augment.channel_shuffle}
    return (*(name for name, value in changes.items() if value), *(["jitter"] if augment.jitter != Jitter() else []))


@lru_cache(maxsize=8)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """A random order of ``count`` pairs."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, count]))).permutation(count)


def _require_size(pair: Pair, side: int) -> None:
    height, width = pair.lq.shape[:2]
    if min(height, width) < side:
        what = f"is {width}x{height} pixels, smaller than the training crop of {side}"
        raise UsageError(f"image '{pair.name}'", what, f"set the crop to at most {min(height, width)}, or leave the image out")


def _tensor(image: NDArray[np.uint8], turns: int, mirror: bool) -> NDArray[np.float32]:
    return _turned(image, turns, mirror).astype(np.float32) / np.float32(255)


def _turned(array: NDArray[Any], turns: int, mirror: bool) -> NDArray[Any]:
    """[h, w, C] mirrored left and right, then turned, as contiguous [C, h, w] of the same type."""
    return np.ascontiguousarray(np.rot90(array[:, ::-1] if mirror else array, turns).transpose(2, 0, 1))


def _bytes_of(pair: Pair) -> int:
    return pair.lq.nbytes + pair.gt.nbytes
