"""The files of a teacher cache: what is kept of a teacher's answers, computed, written, checked."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.contract import PairSource, Progress
from pipeline.errors import StageFailed, UsageError
from pipeline.shared import make_room
from train.config import Precision
from train.teachers import answer

_REFUSED = "too-large"


@dataclass(frozen=True)
class Kept:
    """What is kept of a teacher's answers: the response, and the features of these indices at these strides in pixels."""

    response: bool
    features: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The arrays of a file, in order."""
        return (*(["response"] if self.response else []), *(f"feature{i}" for i in self.features))


class NotKeptError(UsageError):
    """Why a teacher's answers cannot be kept."""


def file_of(folder: Path, index: int) -> Path:
    """The file with the answers to image ``index``."""
    return folder / f"{index:07d}.safetensors"


class Filling:
    """Computes what a folder lacks.

    Args:
        teacher: afterwards on the CPU, in eval mode.
        source: the pairs.
        kept: what is kept of the answers.
        precision: in which the teacher computes.
        folder: where the files go; it exists.
        limit: bytes that they may take.
        progress: told of the images.
        label: names the training.
    """

    def __init__(
        self,
        teacher: nn.Module,
        source: PairSource,
        kept: Kept,
        precision: Precision,
        folder: Path,
        limit: int,
        progress: Progress,
        label: str,
    ) -> None:
        self.teacher, self.source, self.kept, self.precision, self.folder = teacher, source, kept, precision, folder
        self.limit, self.progress, self.label = limit, progress, label
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.made: list[Path] = []

    def run(self) -> None:
        """Compute, and check what is there.

        Raises:
            NotKeptError: more bytes than the limit, or values that float16 does not hold.
            StageFailed: the disk is full.
        """
        self._remember_refusal()
        self.teacher.eval().to(self.device)
        size = 0
        try:
            for index in range(len(self.source)):
                path = file_of(self.folder, index)
                size += path.stat().st_size if self._intact(path) else self._compute(index, path, size)
                if size > self.limit:
                    self._refuse(size / (index + 1) * len(self.source))
                self.progress.update(f"{self.label}: the teacher's answers", index + 1, len(self.source))
        finally:
            self.teacher.to("cpu")

    def _remember_refusal(self) -> None:
        note = self.folder / _REFUSED
        needed = int(note.read_text() or 0) if note.exists() else 0
        if needed > self.limit:
            self._refuse(needed)
        note.unlink(missing_ok=True)

    def _intact(self, path: Path) -> bool:
        if not path.exists():
            return False
        arrays, digest = read(path)
        if arrays and tuple(arrays) == self.kept.names and hash_of(arrays) == digest:
            return True
        self.progress.log(f"{self.label}: {path.name} of the teacher's answers is damaged and computed anew")
        return False

    def _compute(self, index: int, path: Path, before: int) -> int:
        arrays = self._arrays(index)
        size = sum(a.nbytes for a in arrays.values())
        if not self.made:
            self._check_size((before + size) / (index + 1) * len(self.source), refuse=index == 0)
        from safetensors.numpy import save

        _write(path, save(arrays, {"sha256": hash_of(arrays)}), self.label)
        self.made.append(path)
        return size

    def _arrays(self, index: int) -> dict[str, NDArray[np.float16]]:
        pair = self.source[index]
        lq = torch.from_numpy(np.ascontiguousarray(pair.lq.transpose(2, 0, 1), np.float32) / np.float32(255))[None].to(self.device)
        mixed = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(self.precision)
        with torch.no_grad(), torch.autocast(self.device.type, mixed, enabled=mixed is not None):
            output, features = answer(self.teacher, lq, bool(self.kept.features))
        tensors = [*([output] if self.kept.response else []), *(features[i] for i in self.kept.features)]
        return {name: self._half(name, tensor, pair.name) for name, tensor in zip(self.kept.names, tensors, strict=True)}

    def _half(self, name: str, tensor: Tensor, image: str) -> NDArray[np.float16]:
        half = tensor[0].permute(1, 2, 0).to(torch.float16).cpu().numpy()
        if not np.isfinite(half).all():
            what = f"the teacher's {name} reaches {tensor.abs().max().item():.3g} on image '{image}', more than float16 holds"
            raise NotKeptError(f"{self.label}: teacher_cache", what, "set teacher_cache: off")
        return np.ascontiguousarray(half)

    def _check_size(self, needed: float, refuse: bool) -> None:
        if refuse and needed > self.limit:  # by the first image, or whether a filling was interrupted would decide
            self._refuse(needed)
        make_room(self.folder, needed, self.limit)
        missing = sum(not file_of(self.folder, index).exists() for index in range(len(self.source)))
        lacking, free = needed / len(self.source) * missing, shutil.disk_usage(self.folder).free
        if lacking > free:
            what = f"the teacher's answers need {_gb(lacking)} GB, and {_gb(free)} GB are free in {self.folder}"
            raise StageFailed(f"{self.label}: teacher_cache", what, "free some space, or set teacher_cache: off")

    def _refuse(self, needed: float) -> None:
        what = f"the teacher's answers to {len(self.source)} images need {_gb(needed)} GB, and cache_gb is {self.limit / 1e9:g}"
        fewer = ", compare coarse features alone (feature_scales: [0, ..., 1])" if self.kept.features else ""
        for path in self.made:  # no others: who filled the folder under a larger limit may be reading them
            path.unlink(missing_ok=True)
        if not any(self.folder.glob("*.safetensors")):
            (self.folder / _REFUSED).write_text(str(round(needed)))  # else a resumed run would fill the folder again to learn the same
        raise NotKeptError(f"{self.label}: teacher_cache", what, f"set cache_gb to {_gb(needed)}{fewer}, or teacher_cache: off")


def read(path: Path) -> tuple[dict[str, NDArray[Any]], str]:
    """A file's arrays and the hash that it states; nothing where it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            names = sorted(file.keys(), key=lambda n: (n != "response", len(n), n))
            return {name: file.get_tensor(name) for name in names}, (file.metadata() or {}).get("sha256", "")
    except (SafetensorError, OSError):
        return {}, ""


def hash_of(arrays: dict[str, NDArray[Any]]) -> str:
    """64 hex digits over the arrays, their names, types and shapes."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _write(path: Path, content: bytes, label: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as e:
        temporary.unlink(missing_ok=True)
        raise StageFailed(
            f"{label}: teacher_cache",
            f"{path} cannot be written ({e})",
            "free some space, or set teacher_cache: off",
        ) from e


def _gb(size: float) -> str:
    return f"{math.ceil(size / 1e8) / 10:g}"
