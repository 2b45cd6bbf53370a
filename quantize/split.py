"""Which pictures calibrate and which judge: never the same, by scene, so that no contender is judged on what it was fitted to."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.contract import Pair, PairSource

FEWEST = 4
"""Pictures below which half of them would judge nothing."""


class Without:
    """A source without some scenes; in the place of each of their pairs stands the next pair of another. A ``PairSource``.

    Args:
        source: all pairs.
        scenes: names of scenes to leave out; there are others.
    """

    def __init__(self, source: PairSource, scenes: frozenset[str]) -> None:
        self.source, self.left_out = source, scenes

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Pair:
        for step in range(len(self.source)):
            pair = self.source[(index + step) % len(self.source)] if step else self.source[index]
            if pair.scene not in self.left_out:
                return pair
        raise IndexError(f"all scenes are left out: {', '.join(sorted(self.left_out))}")

    def digest(self) -> str:
        """64 hex digits over the source's digest and the scenes that are left out."""
        return hashlib.sha256(repr((self.source.digest(), sorted(self.left_out))).encode()).hexdigest()

    def scenes(self) -> Mapping[str, str]:
        """The source's, but for those."""
        return {name: digest for name, digest in self.source.scenes().items() if name not in self.left_out}


@dataclass(frozen=True)
class Parts:
    """Who sees what.

    calibrating  pairs from whose blurred images ranges, equalisation and bias corrections come
    judging      pairs by which contenders are compared
    train        pairs that contenders are trained on; none of a scene that judges, unless ``note`` says so
    note         all this in words
    """

    calibrating: tuple[Pair, ...]
    judging: tuple[Pair, ...]
    train: PairSource
    note: str


def split(calibrate: PairSource, train: PairSource, images: int) -> Parts:
    """Share ``images`` pairs of ``calibrate``, evenly spread over it, out by scene: half of them calibrate, the others judge.

    Where they are fewer than ``FEWEST`` or show one scene only, all of them judge, and training pictures of other scenes calibrate: by
    then they fit every contender alike. Where training has no other scenes either, the same pictures calibrate and judge, and the
    note says that the figures flatter.

    Args:
        calibrate: the calibration set, at least one pair.
        train: the training set.
        images: most pairs to use.
    """
    pairs = _spread(calibrate, images)
    counts = Counter(pair.scene for pair in pairs)
    judges = _half(counts) if len(pairs) >= FEWEST and len(counts) > 1 else frozenset(counts)
    judging, others = ([p for p in pairs if (p.scene in judges) is flag] for flag in (True, False))
    rest, left_out = _without(train, calibrate, judges)
    if others:
        note = f"{_count(others)} of the calibration set calibrate, {_count(judging)} judge: no scene does both"
    elif rest is not None:
        others = list({pair.name: pair for pair in _spread(rest, images)}.values())
        note = f"the calibration set has {_count(pairs)}, too little to share out: it judges, {_count(others)} of the training calibrate"
    else:
        others = judging
        note = f"{_count(pairs)} are all there is: the same pictures calibrate and judge, which flatters calibration"
    if rest is None:
        note += "; the training sees them too, for it has no other scenes"
    elif left_out:
        note += f"; the training leaves {left_out} scene{'s' * (left_out > 1)} out that judge"
    return Parts(tuple(others), tuple(judging), train if rest is None else rest, note)


def _spread(source: PairSource, count: int) -> list[Pair]:
    return [source[int(i)] for i in np.unique(np.linspace(0, len(source) - 1, min(count, len(source))).round())]


def _half(counts: Mapping[str, int]) -> frozenset[str]:
    """The scenes that judge: each goes, the largest first and else in the order of their hashes, to the part that has fewer pairs."""
    judges, sizes = [], [0, 0]
    for scene in sorted(counts, key=lambda s: (-counts[s], hashlib.sha256(s.encode()).hexdigest())):
        part = int(sizes[1] < sizes[0])
        sizes[part] += counts[scene]
        judges += [scene] * (part == 0)
    return frozenset(judges)


def _without(train: PairSource, calibrate: PairSource, judges: frozenset[str]) -> tuple[PairSource | None, int]:
    """The training set without the scenes that judge, None where nothing is left, and how many that are."""
    known, contents = train.scenes(), calibrate.scenes()
    digests = {contents[name] for name in judges if name in contents}
    shared = frozenset(name for name, digest in known.items() if name in judges or digest in digests)
    if not shared:
        return train, 0
    return (Without(train, shared) if len(shared) < len(known) else None), len(shared)


def _count(pairs: Sequence[Pair]) -> str:
    scenes = len({pair.scene for pair in pairs})
    return f"{len(pairs)} picture{'s' * (len(pairs) != 1)} of {scenes} scene{'s' * (scenes != 1)}"
