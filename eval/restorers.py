"""What a user may name to have images restored: a checkpoint, published weights or a bundle, opened into one kind of function."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from eval.quality import Image
from eval.tiling import OnTile, Run, TilePlan, restore_tiled, tile_plan
from pipeline.errors import ToolchainMissing, UsageError

if TYPE_CHECKING:
    from torch import nn

WHOLE_PIXELS = 1920 * 1088
"""Largest image that a network of free input size restores in one piece when no tile size is asked for."""

AUTO_TILE = 1024
"""Side of the tiles, in pixels, for larger ones."""


class Restorer:
    """Restores images of any size: uint8 RGB [H, W, 3] -> the same, rounded and clipped.

    Args:
        name: the file or folder that it came from.
        facts: small JSON about it.
        run: the network on one tile.
        multiple: sides of its input must be multiples of this.
        fixed: the only input size (height, width) that it takes; None when it takes any.
        tile: side of the tiles asked for, in pixels; 0 decides by the image's size.
        padding: how an image is extended to a multiple: reflect, replicate or zero.
        close: frees it.

    Raises:
        UsageError: a tile size other than the only one it takes, or no multiple.

    """

    def __init__(
        self,
        name: str,
        facts: Mapping[str, Any],
        run: Run,
        *,
        multiple: int = 1,
        fixed: tuple[int, int] | None = None,
        tile: int = 0,
        padding: str = "reflect",
        close: Callable[[], None] = lambda: None,
    ) -> None:
        if tile and fixed is not None and fixed != (tile, tile):
            raise UsageError("--tile", f"{tile}, but {name} was built for {fixed[1]}x{fixed[0]} only", "leave --tile out")
        if tile < 0 or tile % multiple:
            hint = f"use a multiple, e.g. {max(multiple, tile // multiple * multiple)}"
            raise UsageError("--tile", f"{tile} is no multiple of {multiple}, as {name} needs", hint)
        self.name = name
        self.network = run
        self._facts, self._multiple, self._fixed, self._tile, self._close = dict(facts), multiple, fixed, tile, close
        self._padding = padding

    def __call__(self, image: Image, on_tile: OnTile | None = None) -> Image:
        """Restore one image; ``on_tile`` is told how many of its tiles are done.

        Raises:
            StageFailed: the network returns NaN.

        """
        height, width = image.shape[:2]
        padded = extended(image, self._multiple, self._padding)
        out = restore_tiled(padded, self.network, self.plan(*padded.shape[:2]), on_tile)
        return np.ascontiguousarray(out[:height, :width])

    def plan(self, height: int, width: int) -> TilePlan:
        """How an image of that size is cut."""
        tile = self._fixed or self._free_tile(height, width)
        return tile_plan(height, width, tile, halo_of(tile), self._multiple)

    def describe(self) -> dict[str, Any]:
        """Name, kind, and what is known of the network and of what runs it."""
        return {"name": self.name, **self._facts, "tile": list(self._fixed) if self._fixed else self._tile or None}

    def close(self) -> None:
        """Free the network."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _free_tile(self, height: int, width: int) -> tuple[int, int]:
        whole = tuple(-(-n // self._multiple) * self._multiple for n in (height, width))
        side = self._tile or (0 if whole[0] * whole[1] <= WHOLE_PIXELS else -(-AUTO_TILE // self._multiple) * self._multiple)
        return (min(whole[0], side or whole[0]), min(whole[1], side or whole[1]))


def halo_of(tile: tuple[int, int]) -> int:
    """The halo used with a tile: an eighth of its shorter side, at most 64 pixels."""
    return min(64, min(tile) // 8)


def extended(image: Image, multiple: int, padding: str) -> Image:
    """An image with sides of multiples, right and bottom added: zeros, or the border repeated; mirroring is left to the tiles."""
    modes: dict[str, Any] = {"zero": "constant", "replicate": "edge"}
    bottom, right = (-side % multiple for side in image.shape[:2])
    if padding not in modes or not (bottom or right):
        return image
    return np.pad(image, ((0, bottom), (0, right), (0, 0)), mode=modes[padding])


def open_restorer(path: Path, *, tile: int = 0, threads: int = 0, faithful: bool = False) -> Restorer:
    """Open a checkpoint, published weights, or a bundle (or the run directory that holds one).

    Args:
        path: a checkpoint, a file of published weights, a bundle folder, or a run directory.
        tile: side of the tiles in pixels; 0 restores images whole up to full HD and tiles larger ones.
        threads: CPU threads; 0 takes all cores.
        faithful: of a bundle open what stands for the target's artifact, not the artifact meant for this machine.

    Raises:
        UsageError: none of these, or damaged.
        ToolchainMissing: what runs it is not installed.

    """
    hint = "name a checkpoint, published weights (.pth), a bundle folder, or a run directory"
    if not path.exists():
        raise UsageError(str(path), "no such file or folder", hint)
    threads = threads or len(os.sched_getaffinity(0))
    if path.is_file():
        return _from_checkpoint(path, tile, threads)
    for folder in (path, path / "bundle"):
        if any((folder / name).is_file() for name in ("bundle.json", "MANIFEST.sha256")):
            return _from_bundle(folder, tile, threads, faithful)
    raise UsageError(str(path), "is a folder, but no bundle", hint)


def _from_checkpoint(path: Path, tile: int, threads: int) -> Restorer:
    try:
        import torch
    except ModuleNotFoundError as e:
        raise ToolchainMissing(str(path), "a checkpoint runs on PyTorch, which is not installed", 'pip install -e ".[train]"') from e
    from eval.cost import count_params
    from models import load_checkpoint
    from models.restore import padding_of

    torch.set_num_threads(threads)
    teacher = load_checkpoint(path)
    module = teacher.network.to("cuda" if torch.cuda.is_available() else "cpu").requires_grad_(False)
    facts = {"kind": "checkpoint", "arch": teacher.arch, "precision": "fp32", "backend": "torch", "params": count_params(module)}
    multiple = int(getattr(module, "size_multiple", 1))
    return Restorer(str(path), facts, torch_run(module), multiple=multiple, tile=tile, padding=padding_of(module))


def _from_bundle(path: Path, tile: int, threads: int, faithful: bool) -> Restorer:
    from eval.bundle import Bundle

    bundle = Bundle.open(path)
    artifact = bundle.artifact(bundle.facts.chosen if faithful else bundle.facts.host)
    session = bundle.session(artifact.name, threads)
    facts = {
        "kind": "bundle",
        "artifact": artifact.name,
        "target": bundle.facts.target,
        "precision": artifact.precision,
        "backend": str(artifact.evaluation.facts["backend"]).rpartition(".")[2],
        "stands_in": artifact.stands_in,
    }
    fixed = (session.height, session.width) if session.height else None
    multiple = bundle.facts.network.size_multiple
    return Restorer(str(path), facts, session.run, multiple=multiple, fixed=fixed, tile=tile, close=session.close)


def torch_run(module: nn.Module) -> Run:
    """A network in eval mode as a function on numpy batches, on whatever device it lies."""
    import torch
    from numpy.typing import NDArray

    device = next((p.device for p in module.parameters()), torch.device("cpu"))

    def run(lq: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            out: NDArray[np.float32] = module(torch.from_numpy(lq).to(device)).float().cpu().numpy()
        return out

    return run
