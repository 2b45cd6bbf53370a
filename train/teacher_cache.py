"""A teacher's answers to whole images, computed once and cut in step with the training crops, so that a step costs the student alone.

What is kept is the response and those features that the loss compares, float16, one safetensors file per image, in a folder named
after everything that decides them: the teacher's code and weights, the pairs, what is kept, the precision. Files are written under
another name and renamed, so that an interrupted run finds whole ones only; it checks their hashes and computes anew what is missing or
damaged. So stages and runs may have the answers in common (``pipeline.shared``): whoever compares less of them, the response alone, reads
the folder of one that compared features too.

A crop's target is the same window of the teacher's answer to the whole image, turned and mirrored with the crop. That is the usual
approximation, not the teacher's answer to the crop itself: the whole image shows it more context (its answer is rather better for
that), and no network here is exactly equivariant to turns. Features are cut at their stride, so crops begin at its multiples. Colour
changes, noise and resizing cannot be followed: such trainings ask the teacher about every crop.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from data.crops import beyond_turns
from models.spec import size_multiple
from pipeline.code import code_digest
from pipeline.contract import PairSource, Progress
from pipeline.errors import StageFailed
from pipeline.shared import hold
from pipeline.store import size_of
from train.config import Precision, RecoverConfig, TrainConfig
from train.determinism import deterministic
from train.features import probe
from train.launch import resolve_precision
from train.phases import phases
from train.teacher_files import Filling, Kept, NotKeptError, file_of

_FORMAT = 2
_OPEN_FILES = 128


class TeacherCache:
    """The answers in a folder; a ``data.crops.Beside``. A copy sent to another process opens its files itself.

    Args:
        folder: one file per image of the source.
        kept: what is read of them.
        held: keeps the folder from being dropped as long as this object lives; closed then.
    """

    def __init__(self, folder: Path, kept: Kept, held: IO[str] | None = None) -> None:
        self.folder, self.kept = folder, kept
        if held is not None:
            weakref.finalize(self, held.close)
        self.align = math.lcm(1, *kept.strides)
        self._reset()

    def cut(self, index: int, top: int, left: int, side: int) -> list[NDArray[np.float16]]:
        """The arrays of that square of image ``index``, float16 [h, w, C] each, in the order of ``kept.names``.

        Raises:
            StageFailed: the image's file is gone or damaged.
        """
        steps = (*([1] if self.kept.response else []), *self.kept.strides)
        arrays = self._arrays(index)
        return [a[top // s : (top + side) // s, left // s : (left + side) // s] for a, s in zip(arrays, steps, strict=True)]

    def _arrays(self, index: int) -> Sequence[Any]:
        with self._lock:
            if index not in self._open:
                self._open[index] = self._opened(file_of(self.folder, index))
            self._open.move_to_end(index)
            while len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)
            return self._open[index]

    def _opened(self, path: Path) -> Sequence[Any]:
        from safetensors import SafetensorError, safe_open

        try:
            file: Any = safe_open(path, framework="numpy")
            return [file.get_slice(name) for name in self.kept.names]  # mapped into memory: a slice reads what it covers
        except (SafetensorError, OSError) as e:
            raise StageFailed(str(path), f"a teacher's answer cannot be read ({e})", "run again: what is damaged is computed anew") from e

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[int, Sequence[Any]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "kept": self.kept, "align": self.align}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()


def open_cache(
    teacher: nn.Module,
    source: PairSource,
    config: RecoverConfig,
    train: TrainConfig,
    wanted: tuple[bool, tuple[int, ...]],
    root: Path,
    progress: Progress,
    label: str,
) -> TeacherCache:
    """The teacher's answers to every image of ``source``, computed where they are not there yet.

    Args:
        teacher: afterwards on the CPU, in eval mode.
        source: the training pairs.
        config: ``teacher_cache`` and ``cache_gb`` are read.
        train: the training, seeded.
        wanted: (whether the response is compared, indices of the teacher's features that are).
        root: the answers' folder is made or found in here; others are dropped where all together would exceed ``cache_gb``.
        progress: told of the images.
        label: names the training.

    Raises:
        NotKeptError: augmentation that cannot be followed, features that cannot be cut or stored, more than ``cache_gb``; with
            "auto" also: computing the answers would be more work than asking about every crop. Decided by settings and data alone.
        StageFailed: the disk is full.
    """
    _require_turns_only(train, label)
    kept = _kept(teacher, wanted, label)
    if config.teacher_cache == "auto":
        _require_less_work(teacher, source, train, label)
    precision, limit = resolve_precision(train), round(config.cache_gb * 1e9)
    digest = digest_of(teacher, source, precision, train.deterministic)
    found = _wider(root, digest, kept, len(source), limit) or kept
    folder = _folder(root, digest, found)
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(hold(folder))
        with _locked(folder), deterministic(train.deterministic):
            Filling(teacher, source, found, precision, folder, limit, progress, label).run()
        stack.pop_all()
        return TeacherCache(folder, kept, held)


def _folder(root: Path, digest: str, kept: Kept) -> Path:
    return root / f"{digest}-{'+'.join(kept.names)}"


def _wider(root: Path, digest: str, kept: Kept, count: int, limit: int) -> Kept | None:
    """What a folder holds that has all of the answers and others beside, within the limit; None where there is none or none is needed."""
    if _complete(_folder(root, digest, kept), count):
        return None
    for path in sorted(root.glob(f"{digest}-*/")):
        names = path.name.removeprefix(f"{digest}-").split("+")
        if set(kept.names) < set(names) and _complete(path, count) and size_of(path) <= limit:
            return Kept("response" in names, tuple(int(name.removeprefix("feature")) for name in names if name != "response"))
    return None


def _complete(folder: Path, count: int) -> bool:
    return all(file_of(folder, index).exists() for index in range(count))


def digest_of(teacher: nn.Module, source: PairSource, precision: Precision, exact: bool) -> str:
    """64 hex digits over what decides the answers: code, structure and weights of the teacher, the pairs, the precision, torch.

    ``exact``: whether deterministic algorithms are asked for.
    """
    code = code_digest("train.teacher_files", sorted({type(module).__module__ for module in teacher.modules()}))
    computed = [precision, exact, torch.__version__, torch.cuda.is_available()]
    digest = hashlib.sha256(json.dumps([_FORMAT, code, repr(teacher), source.digest(), computed]).encode())
    for name, tensor in teacher.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _kept(teacher: nn.Module, wanted: tuple[bool, tuple[int, ...]], label: str) -> Kept:
    response, indices = wanted
    side = size_multiple(teacher) * math.ceil(64 / size_multiple(teacher))
    heights = [height for _, height in probe(teacher, side)] if indices else []
    bad = next((heights[i] for i in indices if side % heights[i]), None)
    if bad is not None:
        what = f"the teacher's features of {bad} pixels for an image of {side} cannot be cut in step with crops"
        raise NotKeptError(f"{label}: teacher_cache", what, "set teacher_cache: off")
    return Kept(response, indices, tuple(side // heights[i] for i in indices))


def _require_turns_only(train: TrainConfig, label: str) -> None:
    changes = beyond_turns(train.augment)
    if changes:
        what = f"train.augment's {', '.join(changes)} changes what the teacher would answer"
        raise NotKeptError(f"{label}: teacher_cache", what, "switch it off, or set teacher_cache: auto or off")


def _require_less_work(teacher: nn.Module, source: PairSource, train: TrainConfig, label: str) -> None:
    multiple = size_multiple(teacher)
    whole = len(source) * math.prod(math.ceil(side / multiple) * multiple for side in source[0].lq.shape[:2])
    stages = phases(train)
    ends = [*(phase.step for phase in stages[1:]), train.steps]
    crops = sum((end - phase.step) * phase.batch * phase.crop**2 for phase, end in zip(stages, ends, strict=True))
    if whole >= crops:
        what = f"the images have {whole / 1e6:.3g} million pixels, and all crops together {crops / 1e6:.3g}"
        raise NotKeptError(f"{label}: teacher_cache", what, "set teacher_cache: on to compute the answers all the same")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Processes of one training fill a folder one after another: the first computes, the others check."""
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
