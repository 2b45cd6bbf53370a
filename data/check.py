"""Is a data set fit to train on and to be measured with? Everything that is wrong or suspicious, without stopping at the first.

Errors make a result wrong or stop a run: unreadable or unequal images, a pair without blur, images smaller than the training crop, test
images that were trained on. Warnings are for a person to look at: pairs that look exchanged or displaced, images that come twice.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.contract import PairSource, Problem, ReaderSpec
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.contract import Pair

MULTIPLE = 8  # sides that are no multiple of it are padded by most networks
_SHIFT, _GAIN = 2.0, 3.0  # pixels and dB from which a pair counts as displaced; a strong blur alone moves images by more, but gains nothing
_SHARPER = 1.1  # factor on the edges' energy from which the blurred image counts as the sharper one
_PROBE = 512  # side of the middle part in which displacement is looked for
_NEAR = 2  # bits of 64 in which perceptual hashes of similar images differ at most
_PLAIN = 8.0  # standard deviation in 8-bit levels below which an image has no telling hash


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong (``error``) or suspicious in the data of one role."""

    role: str
    kind: str
    where: str
    what: str
    error: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What is kept of a decoded pair.

    size    height and width in pixels
    psnr    of the blurred image against the sharp one, in dB; infinite if they are equal
    sharp   SHA-256 of the sharp image's size and pixels
    both    the same of the two images
    hash    64 bits that similar sharp images share all but a few of; None if the image has no structure
    """

    name: str
    scene: str
    size: tuple[int, int]
    psnr: float
    sharp: str
    both: str
    hash: int | None


@dataclass(frozen=True, slots=True)
class Role:
    """One data set, as far as it could be read; ``facts`` is empty if nothing was decoded."""

    name: str
    pairs: int = 0
    scenes: Mapping[str, str] = field(default_factory=dict)
    facts: Sequence[Facts] = ()

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Heights and widths that occur, the smallest area first."""
        return sorted({f.size for f in self.facts}, key=lambda size: (size[0] * size[1], size))

    @property
    def uneven(self) -> int:
        """Pairs with a side that is no multiple of ``MULTIPLE``."""
        return sum(any(side % MULTIPLE for side in f.size) for f in self.facts)

    @property
    def psnr(self) -> float | None:
        """Mean PSNR in dB of the blurred images, those without blur left out."""
        finite = [f.psnr for f in self.facts if math.isfinite(f.psnr)]
        return sum(finite) / len(finite) if finite else None


def inspect(reader: ReaderSpec, config: Any, base: Path, seed: int) -> tuple[PairSource | None, Sequence[Problem]]:
    """What a reader can read, and what it says is wrong; of a reader without ``inspect`` only the first problem is known."""
    if reader.inspect is not None:
        return reader.inspect(config, base, seed)
    try:
        return reader.open(config, base, seed), []
    except UsageError as e:
        return None, [Problem(e.where, e.what)]


def check_role(
    name: str, source: PairSource | None, problems: Iterable[Problem], *, crop: int = 0, quick: bool = False, advance: Callable[[], None]
) -> tuple[Role, list[Finding]]:
    """Check one data set on its own.

    Args:
        name: the role.
        source: what can be read of it.
        problems: what its reader found.
        crop: side in pixels of the crops that it is trained with; 0 for a set that is not cut.
        quick: decode nothing.
        advance: called after each pair.
    """
    found = [Finding(name, "files", p.where, p.what, True) for p in problems]
    if source is None:
        return Role(name), found
    try:
        scenes = source.scenes()  # reads every file's bytes, and in this thread: the threads below then find them known
    except UsageError as e:
        scenes = {}
        found.append(Finding(name, "files", e.where, e.what, True))
    facts: list[Facts] = []
    if not quick:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for known, wrong in pool.map(lambda i: _pair(name, source, i, crop), range(len(source))):
                facts += [known] if known else []
                found += wrong
                advance()
    found += _repeated_names(name, facts)
    return Role(name, len(source), scenes, facts), found


def compare(roles: Sequence[Role]) -> list[Finding]:
    """What data sets share with each other and images with others of their own set: scenes, equal and similar sharp images."""
    found = list(_shared_scenes(roles))
    known = {(f.role, f.where) for f in found}
    found += _equal_images(roles, known)
    return found + list(_similar_images(roles))


def _pair(role: str, source: PairSource, index: int, crop: int) -> tuple[Facts | None, list[Finding]]:
    try:
        pair = source[index]
    except UsageError as e:
        return None, [Finding(role, "unreadable", e.where, e.what, True)]
    lq, gt = pair.lq, pair.gt
    if lq.shape != gt.shape or lq.ndim != 3 or lq.shape[2] != 3 or lq.dtype != np.uint8 or gt.dtype != np.uint8:
        what = f"is {lq.dtype} {list(lq.shape)} and {gt.dtype} {list(gt.shape)}, not two uint8 [H, W, 3] of equal size"
        return None, [Finding(role, "size", pair.name, what, True)]
    mean_square = float(np.square(lq.astype(np.float32) - gt).mean())
    psnr = 10 * math.log10(255**2 / mean_square) if mean_square else math.inf
    content = sha256(f"{gt.shape}".encode() + gt.tobytes())
    sharp = content.hexdigest()
    content.update(lq.tobytes())
    facts = Facts(pair.name, pair.scene, (lq.shape[0], lq.shape[1]), psnr, sharp, content.hexdigest(), _hash(gt))
    return facts, [Finding(role, kind, pair.name, what, error) for kind, what, error in _wrong(pair, crop, mean_square == 0)]


def _wrong(pair: Pair, crop: int, equal: bool) -> Iterator[tuple[str, str, bool]]:
    height, width = pair.lq.shape[:2]
    if min(height, width) < crop:
        yield "size", f"is {width}x{height} pixels, smaller than the training crop of {crop}", True
    if equal:
        yield "no blur", "the blurred image equals the sharp one: there is nothing to learn or to measure", True
        return
    lq, gt = _grey(pair.lq), _grey(pair.gt)
    blur, sharp = _edges(lq), _edges(gt)
    if blur > max(1.0, _SHARPER * sharp):
        yield "exchanged?", f"the blurred image has {blur / max(sharp, 0.01):.1f} times the edges of the sharp one", False
    x, y, gain = displacement(lq, gt)
    if math.hypot(x, y) > _SHIFT and gain > _GAIN:
        yield "displaced?", f"the blurred image fits {gain:.1f} dB better when the sharp one is moved by ({x:+.1f}, {y:+.1f}) pixels", False


def displacement(lq: NDArray[np.float32], gt: NDArray[np.float32]) -> tuple[float, float, float]:
    """How far (x, y) in pixels ``lq`` lies from ``gt``, and by how many dB the mean square error falls when ``gt`` is moved there.

    Phase correlation of the middle parts (Kuglin & Hines, 1975), of the images themselves and of smoothed ones, whose coarse structure
    a blur changes less; what explains more is taken. (0, 0, 0) if no move explains anything.

    Args:
        lq: float32 [H, W], grey levels.
        gt: float32 [H, W].
    """
    import cv2

    top, left = max(0, lq.shape[0] - _PROBE) // 2, max(0, lq.shape[1] - _PROBE) // 2
    a, b = (np.ascontiguousarray(image[top : top + _PROBE, left : left + _PROBE]) for image in (lq, gt))
    height, width = a.shape
    best = 0.0, 0.0, 0.0
    if min(height, width) < 32:
        return best
    window = cv2.createHanningWindow((width, height), cv2.CV_32F)
    for c, d in ((a, b), (cv2.GaussianBlur(a, (0, 0), 3), cv2.GaussianBlur(b, (0, 0), 3))):
        (x, y), _ = cv2.phaseCorrelate(d, c, window)
        margin = math.ceil(max(abs(x), abs(y))) + 1
        if margin * 4 > min(height, width):
            continue
        moved = cv2.warpAffine(b, np.array([[1, 0, x], [0, 1, y]], np.float32), (width, height))
        inner = slice(margin, height - margin), slice(margin, width - margin)
        before, after = (float(np.square(a[inner] - other[inner]).mean()) + 1e-3 for other in (b, moved))
        gain = 10 * math.log10(before / after)
        if gain > best[2]:
            best = x, y, gain
    return best


def _grey(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    import cv2

    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.float32)


def _edges(grey: NDArray[np.float32]) -> float:
    """Variance of the Laplacian, of the slightly smoothed image: noise of a few levels does not count as edges."""
    import cv2

    return float(cv2.Laplacian(cv2.GaussianBlur(grey, (0, 0), 1), cv2.CV_32F).var())


def _hash(image: NDArray[np.uint8]) -> int | None:
    """64 bits: whether each of 8x8 coarse pixels is darker than its right neighbour ("dHash"). None for a plain image."""
    import cv2

    coarse = cv2.resize(_grey(image), (9, 8), interpolation=cv2.INTER_AREA)
    if coarse.std() < _PLAIN:
        return None
    return int.from_bytes(np.packbits(coarse[:, 1:] > coarse[:, :-1]).tobytes())


def _repeated_names(role: str, facts: Sequence[Facts]) -> Iterator[Finding]:
    seen = set()
    for fact in facts:
        if fact.name in seen:
            yield Finding(role, "name", fact.name, "two pairs have this name", True)
        seen.add(fact.name)


def _shared_scenes(roles: Sequence[Role]) -> Iterator[Finding]:
    """Scenes of the test set, by name or by content, that another set has too: what a run refuses."""
    held_out = next((role for role in roles if role.name == "test"), None)
    for role in (r for r in roles if held_out and r is not held_out):
        contents = set(role.scenes.values())
        for scene, digest in held_out.scenes.items() if held_out else ():
            if scene in role.scenes or digest in contents:
                what = f"this scene is also in {role.name}, so its score would prove nothing"
                yield Finding("test", "overlap", scene, what, True)


def _equal_images(roles: Sequence[Role], known: set[tuple[str, str]]) -> Iterator[Finding]:
    """Pairs that come twice in a set, and sharp images that another scene or set has; several blurs of one sharp image are no finding."""
    sharps: dict[str, tuple[str, Facts]] = {}
    pairs: dict[tuple[str, str], Facts] = {}
    for role in roles:
        for fact in role.facts:
            other_role, other = sharps.setdefault(fact.sharp, (role.name, fact))
            twin = pairs.setdefault((role.name, fact.both), fact)
            if twin is not fact:
                yield Finding(role.name, "duplicate", fact.name, f"is the same pair as '{twin.name}'", False)
            elif role.name != other_role and (role.name, fact.scene) not in known:
                what = f"has the same sharp image as '{other.name}' in {other_role}"
                yield Finding(role.name, "duplicate", fact.name, what, "test" in (role.name, other_role))
            elif role.name == other_role and fact.scene != other.scene:
                yield Finding(
                    role.name, "duplicate", fact.name, f"has the same sharp image as '{other.name}', which is another scene", False
                )


def _similar_images(roles: Sequence[Role]) -> Iterator[Finding]:
    """Images that differ from another scene's in at most ``_NEAR`` bits of their hashes; one finding for each, with the first such.

    Two hashes that differ in two bits agree in one of three parts: only images that share a part are compared.
    """
    parts: defaultdict[tuple[int, int], list[tuple[str, Facts]]] = defaultdict(list)
    for role in roles:
        for fact in (f for f in role.facts if f.hash is not None):
            bits = fact.hash or 0
            places = [(0, bits >> 42), (1, bits >> 21 & 0x1FFFFF), (2, bits & 0x1FFFFF)]
            alike = next((c for place in places for c in parts[place] if _alike(role.name, fact, *c)), None)
            if alike:
                place_of = f" in {alike[0]}" if alike[0] != role.name else ""
                what = f"looks like '{alike[1].name}'{place_of}, which is another scene; are they the same one?"
                yield Finding(role.name, "similar?", fact.name, what, False)
            for place in places:
                parts[place].append((role.name, fact))


def _alike(role: str, fact: Facts, other_role: str, other: Facts) -> bool:
    if fact.sharp == other.sharp or (role == other_role and fact.scene == other.scene):
        return False
    return ((fact.hash or 0) ^ (other.hash or 0)).bit_count() <= _NEAR
